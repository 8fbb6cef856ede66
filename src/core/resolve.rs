//! Which identities a pod may have, as aad-pod-identity v1.8 decided it, made deterministic.

use crate::authority;
use crate::contract::{PodIdentity, Source};
use crate::fields::FieldError;
use crate::index::Index;
use crate::objects::{AzureIdentity, AzureIdentityBinding, Credential, ObjectName};
use crate::settings::{Endpoint, Scope, Settings};

/// What a pod resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The identities that it may ask for; the first one is its default. Empty: it is unbound.
    pub identities: Vec<Usable>,
    /// The matching bindings that give it nothing, in the order in which they were tried.
    pub skipped: Vec<Skipped>,
}

/// An identity that a pod may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable {
    /// As the sidecar reads it.
    pub identity: PodIdentity,
    /// The authority of a type 1 or 2 identity that is not the cluster's own.
    pub authority: Option<String>,
}

/// A binding that matched and gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AzureIdentityBinding {binding}: {reason}")]
pub struct Skipped {
    /// The binding.
    pub binding: ObjectName,
    /// Why it gives nothing.
    pub reason: Skip,
}

/// Why a binding gives nothing. Each message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Skip {
    /// The binding names an AzureIdentity that is not there.
    #[error("AzureIdentity {0} does not exist; create it there or mend spec.azureIdentity")]
    NoIdentity(ObjectName),
    /// The AzureIdentity cannot be used as it stands.
    #[error("AzureIdentity {0}: {1}")]
    InvalidIdentity(ObjectName, FieldError),
    /// The AzureIdentity keeps to its namespace, and the pod is in another one.
    #[error(
        "AzureIdentity {0} serves only pods of its own namespace (its annotation \
         aadpodidentity.k8s.io/Behavior); bind an AzureIdentity of the pod's namespace"
    )]
    OtherNamespace(ObjectName),
    /// Types 1 and 2 need identity, Secret and pod in one namespace.
    #[error(
        "AzureIdentity {identity} uses Secret {secret}; identity, Secret and pod must share one \
         namespace"
    )]
    ForeignSecret {
        /// The identity.
        identity: ObjectName,
        /// Its Secret.
        secret: ObjectName,
    },
    /// No tenant is known.
    #[error(
        "AzureIdentity {0} names no tenant; set spec.tenantID or the annotation \
         imdslet.dev/tenant-id there, or AZURE_TENANT_ID (--tenant-id) for all"
    )]
    NoTenant(ObjectName),
    /// `spec.adEndpoint` is not among those that the operator allows.
    #[error(
        "AzureIdentity {identity} has spec.adEndpoint `{authority}`, which --allow-authority does \
         not allow"
    )]
    AuthorityNotAllowed {
        /// The identity.
        identity: ObjectName,
        /// What it asks for.
        authority: String,
    },
    /// The node's metadata service is not to be used.
    #[error(
        "AzureIdentity {0} has imdslet.dev/source: managed, which needs --allow-managed; \
         remove the annotation to use a federated credential"
    )]
    ManagedNotAllowed(ObjectName),
    /// AKS identity bindings have no proxy here.
    #[error(
        "AzureIdentity {0} has imdslet.dev/source: binding, which needs --binding-proxy; set that, \
         or remove the annotation to use a federated credential"
    )]
    NoBindingProxy(ObjectName),
    /// In link-local mode the node's metadata service is hidden behind ours.
    #[error(
        "AzureIdentity {0} has imdslet.dev/source: managed, which link-local mode cannot serve; \
         use imdslet.dev/endpoint: env"
    )]
    ManagedInLinkLocal(ObjectName),
}

impl Skip {
    /// Stable name for metrics and events. Never carries user input.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity(..) => "NoIdentity",
            Self::InvalidIdentity(..) => "InvalidIdentity",
            Self::OtherNamespace(..) => "OtherNamespace",
            Self::ForeignSecret { .. } => "ForeignSecret",
            Self::NoTenant(..) => "NoTenant",
            Self::AuthorityNotAllowed { .. } => "AuthorityNotAllowed",
            Self::ManagedNotAllowed(..) => "ManagedNotAllowed",
            Self::NoBindingProxy(..) => "NoBindingProxy",
            Self::ManagedInLinkLocal(..) => "ManagedInLinkLocal",
        }
    }

    /// Whether somebody wants it so, and nobody needs to be told unless the pod is left unbound.
    #[must_use]
    pub fn is_intended(&self) -> bool {
        matches!(self, Self::OtherNamespace(..))
    }
}

impl Resolution {
    /// Why a pod of `namespace` whose label is `selector` is unbound, if it is: the first failure is
    /// the one that its author most likely meant.
    #[must_use]
    pub fn unbound(&self, settings: &Settings, namespace: &str, selector: &str) -> Option<String> {
        if !self.identities.is_empty() {
            return None;
        }
        let place = match settings.scope {
            Scope::Cluster => String::new(),
            Scope::Namespaced => format!(" in namespace `{namespace}`"),
        };
        Some(match self.skipped.first() {
            Some(first) => first.to_string(),
            None => format!(
                "no AzureIdentityBinding{place} has spec.selector `{selector}`; create one, or \
                 remove the aadpodidbinding label from the pod"
            ),
        })
    }
}

/// Finds the identities for pods of `namespace` whose label is `selector`.
///
/// Bindings of the pod's own namespace come first, then the others by namespace and name. Each is
/// matched by the rules of aad-pod-identity (v1.8.17, `pkg/mic/mic.go:574-653`), which sorted them
/// (`pkg/apis/aadpodidentity/sort.go:13`) but picked the default at random. What cannot be used is
/// skipped with its reason; one bad object never blocks the others.
#[must_use]
pub fn resolve(
    index: &Index,
    settings: &Settings,
    namespace: &str,
    selector: &str,
    endpoint: Endpoint,
) -> Resolution {
    let mut resolution = Resolution { identities: Vec::new(), skipped: Vec::new() };
    for (name, binding) in index.bindings(settings.scope, namespace, selector) {
        match usable(index, settings, namespace, name, binding, endpoint) {
            // Two bindings may lead to one identity.
            Ok(usable) if resolution.identities.contains(&usable) => {}
            Ok(usable) => resolution.identities.push(usable),
            Err(reason) => resolution.skipped.push(Skipped { binding: name.clone(), reason }),
        }
    }
    resolution
}

pub(crate) fn usable(
    index: &Index,
    settings: &Settings,
    namespace: &str,
    binding_name: &ObjectName,
    binding: &AzureIdentityBinding,
    endpoint: Endpoint,
) -> Result<Usable, Skip> {
    let name = ObjectName::new(&*binding_name.namespace, &*binding.azure_identity);
    let identity = match index.identity(&name) {
        None => return Err(Skip::NoIdentity(name)),
        Some(Err(error)) => return Err(Skip::InvalidIdentity(name, (**error).clone())),
        Some(Ok(identity)) => identity,
    };
    usable_identity(settings, namespace, name, identity, endpoint)
}

/// What `identity` gives to pods of `namespace`, or why nothing.
pub(crate) fn usable_identity(
    settings: &Settings,
    namespace: &str,
    name: ObjectName,
    identity: &AzureIdentity,
    endpoint: Endpoint,
) -> Result<Usable, Skip> {
    if identity.is_namespaced && name.namespace != namespace {
        return Err(Skip::OtherNamespace(name));
    }
    let (source, secret) = source_of(settings, namespace, &name, identity, endpoint)?;
    let tenant_id = match identity.tenant_id.as_deref().or(settings.tenant_id.as_deref()) {
        Some(tenant) => tenant.to_owned(),
        // The node's metadata service knows it.
        None if source == Source::Managed => String::new(),
        None => return Err(Skip::NoTenant(name)),
    };
    Ok(Usable {
        authority: authority_of(settings, &name, identity)?,
        identity: PodIdentity {
            name: name.to_string(),
            source,
            client_id: identity.client_id.to_string(),
            resource_id: identity.resource_id.as_deref().map(str::to_owned),
            object_id: identity.object_id.as_deref().map(str::to_owned),
            tenant_id,
            auxiliary_tenant_ids: identity.auxiliary_tenant_ids.to_vec(),
            allowed_resources: identity.allowed_resources.as_deref().map(<[_]>::to_vec),
            secret,
        },
    })
}

fn source_of(
    settings: &Settings,
    namespace: &str,
    name: &ObjectName,
    identity: &AzureIdentity,
    endpoint: Endpoint,
) -> Result<(Source, Option<String>), Skip> {
    let (source, secret) = match &identity.credential {
        Credential::Managed(Source::Managed) if !settings.allow_managed => {
            return Err(Skip::ManagedNotAllowed(name.clone()));
        }
        Credential::Managed(Source::Managed) if endpoint == Endpoint::LinkLocal => {
            return Err(Skip::ManagedInLinkLocal(name.clone()));
        }
        Credential::Managed(Source::Binding) if settings.binding.is_none() => {
            return Err(Skip::NoBindingProxy(name.clone()));
        }
        Credential::Managed(source) => return Ok((*source, None)),
        Credential::Secret(secret) => (Source::Secret, secret),
        Credential::Certificate(secret) => (Source::Certificate, secret),
    };
    // A pod mounts Secrets of its own namespace only, and its author could read those anyway.
    if name.namespace != namespace || secret.namespace != namespace {
        return Err(Skip::ForeignSecret { identity: name.clone(), secret: (**secret).clone() });
    }
    Ok((source, Some(secret.name.clone())))
}

fn authority_of(
    settings: &Settings,
    name: &ObjectName,
    identity: &AzureIdentity,
) -> Result<Option<String>, Skip> {
    let (Credential::Secret(_) | Credential::Certificate(_), Some(wanted)) =
        (&identity.credential, &identity.ad_endpoint)
    else {
        return Ok(None);
    };
    match authority::normalize(wanted) {
        Some(url) if url == settings.authority => Ok(None),
        Some(url) if settings.allowed_authorities.contains(&url) => Ok(Some(url)),
        _ => {
            Err(Skip::AuthorityNotAllowed { identity: name.clone(), authority: wanted.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Object;
    use crate::settings::Given;
    use serde_json::{Value, json};

    /// A cluster in a few words.
    #[derive(Default)]
    struct Cluster(Vec<Value>);

    impl Cluster {
        fn object(mut self, kind: &str, name: &str, annotations: &Value, spec: &Value) -> Self {
            let (namespace, name) = name.split_once('/').unwrap();
            self.0.push(json!({
                "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
                "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
                "spec": spec,
            }));
            self
        }

        fn identity_with(self, name: &str, annotations: &Value, mut spec: Value) -> Self {
            if spec.get("clientID").is_none() {
                spec["clientID"] = json!("11111111-1111-1111-1111-111111111111");
            }
            self.object("AzureIdentity", name, annotations, &spec)
        }

        fn identity(self, name: &str) -> Self {
            self.identity_with(name, &json!({}), json!({}))
        }

        fn binding(self, name: &str, selector: &str, identity: &str) -> Self {
            let spec = json!({"azureIdentity": identity, "selector": selector});
            self.object("AzureIdentityBinding", name, &json!({}), &spec)
        }

        fn resolve(&self, given: &[(&'static str, &str)]) -> Resolution {
            self.resolve_at(given, Endpoint::Env)
        }

        fn resolve_at(&self, given: &[(&'static str, &str)], endpoint: Endpoint) -> Resolution {
            let objects = self.0.iter().map(|value| Object::read(value, "d").unwrap().unwrap());
            let given: Given =
                given.iter().map(|(flag, value)| (*flag, vec![(*value).to_owned()])).collect();
            let settings = Settings::read(&given).unwrap();
            resolve(&objects.collect(), &settings, "web", "db", endpoint)
        }
    }

    const TENANT: (&str, &str) = ("tenant-id", "contoso.example");

    fn names(resolution: &Resolution) -> Vec<&str> {
        resolution.identities.iter().map(|usable| usable.identity.name.as_str()).collect()
    }

    fn reasons(resolution: &Resolution) -> Vec<&'static str> {
        resolution.skipped.iter().map(|skipped| skipped.reason.reason()).collect()
    }

    #[test]
    fn which_identities_a_pod_gets_and_why_not_the_others() {
        type Case = (&'static str, Cluster, &'static [&'static str], &'static [&'static str]);
        let cluster = Cluster::default;
        let namespaced = json!({"aadpodidentity.k8s.io/Behavior": "namespaced"});
        let cases: [Case; 10] = [
            ("no binding", cluster().identity("web/app"), &[], &[]),
            (
                "the selector is compared byte for byte",
                cluster().identity("web/app").binding("web/b", "DB", "app"),
                &[],
                &[],
            ),
            (
                "the pod's own namespace first, then by namespace and name",
                cluster()
                    .identity("app/a")
                    .identity("web/z")
                    .identity("ops/o")
                    .binding("ops/b", "db", "o")
                    .binding("app/b", "db", "a")
                    .binding("web/b", "db", "z"),
                &["web/z", "app/a", "ops/o"],
                &[],
            ),
            (
                "a dangling binding does not hide a good one",
                cluster()
                    .identity("web/app")
                    .binding("web/1", "db", "gone")
                    .binding("web/2", "db", "app"),
                &["web/app"],
                &["NoIdentity"],
            ),
            (
                "an identity is looked up in its binding's namespace",
                cluster().identity("web/app").binding("ops/b", "db", "app"),
                &[],
                &["NoIdentity"],
            ),
            (
                "two bindings to one identity give it once",
                cluster()
                    .identity("web/app")
                    .binding("web/1", "db", "app")
                    .binding("web/2", "db", "app"),
                &["web/app"],
                &[],
            ),
            (
                "one name in two namespaces is two identities",
                cluster()
                    .identity("web/app")
                    .identity("ops/app")
                    .binding("web/1", "db", "app")
                    .binding("ops/1", "db", "app"),
                &["web/app", "ops/app"],
                &[],
            ),
            (
                "a namespaced identity stays at home",
                cluster()
                    .identity_with("ops/app", &namespaced, json!({}))
                    .binding("ops/b", "db", "app"),
                &[],
                &["OtherNamespace"],
            ),
            (
                "a namespaced identity serves its own namespace",
                cluster()
                    .identity_with("web/app", &namespaced, json!({}))
                    .binding("web/b", "db", "app"),
                &["web/app"],
                &[],
            ),
            (
                "a broken identity does not block a good one",
                cluster()
                    .identity_with("web/bad", &json!({}), json!({"type": 7}))
                    .identity("web/good")
                    .binding("web/1", "db", "bad")
                    .binding("web/2", "db", "good"),
                &["web/good"],
                &["InvalidIdentity"],
            ),
        ];
        for (name, cluster, expected, skipped) in cases {
            let resolution = cluster.resolve(&[TENANT]);
            assert_eq!(names(&resolution), expected, "{name}");
            assert_eq!(reasons(&resolution), skipped, "{name}");
        }
    }

    #[test]
    fn the_scope_namespaced_keeps_every_identity_at_home() {
        let cluster = Cluster::default()
            .identity("ops/app")
            .identity("web/app")
            .binding("ops/b", "db", "app")
            .binding("ops/dangling", "db", "gone")
            .binding("web/b", "db", "app");
        let resolution = cluster.resolve(&[TENANT, ("scope", "namespaced")]);
        assert_eq!(names(&resolution), ["web/app"]);
        assert_eq!(reasons(&resolution), Vec::<&str>::new());
    }

    #[test]
    fn without_a_tenant_there_is_no_identity() {
        let cluster = Cluster::default().identity("web/app").binding("web/b", "db", "app");
        assert_eq!(reasons(&cluster.resolve(&[])), ["NoTenant"]);
        let own = Cluster::default()
            .identity_with("web/app", &json!({}), json!({"tenantID": "own.example"}))
            .binding("web/b", "db", "app");
        assert_eq!(own.resolve(&[TENANT]).identities[0].identity.tenant_id, "own.example");
    }

    #[test]
    fn types_1_and_2_need_one_namespace_for_identity_secret_and_pod() {
        let with = |identity: &str, binding: &str, namespace: Value| {
            let spec = json!({"type": 1, "clientPassword": {"name": "s", "namespace": namespace}});
            let cluster = Cluster::default().identity_with(identity, &json!({}), spec);
            cluster.binding(binding, "db", "app").resolve(&[TENANT])
        };
        assert_eq!(reasons(&with("web/app", "web/b", json!("ops"))), ["ForeignSecret"]);
        assert_eq!(reasons(&with("ops/app", "ops/b", json!("web"))), ["ForeignSecret"]);
        assert_eq!(reasons(&with("ops/app", "ops/b", json!(null))), ["ForeignSecret"]);
        for namespace in [json!("web"), json!(null)] {
            let resolution = with("web/app", "web/b", namespace);
            let identity = &resolution.identities[0].identity;
            assert_eq!((identity.source, identity.secret.as_deref()), (Source::Secret, Some("s")));
        }
    }

    #[test]
    fn an_endpoint_of_ones_own_must_be_allowed_and_counts_for_types_1_and_2_only() {
        let with = |kind: u8, endpoint: &str, given: &[(&'static str, &str)]| {
            let spec = json!({
                "type": kind, "adEndpoint": endpoint, "clientPassword": {"name": "s"},
            });
            let cluster = Cluster::default().identity_with("web/app", &json!({}), spec);
            cluster.binding("web/b", "db", "app").resolve(given)
        };
        let allow = ("allow-authority", "https://login.partner.example");
        let partner = "https://LOGIN.partner.example/";
        let authority = |resolution: &Resolution| resolution.identities[0].authority.clone();
        assert_eq!(reasons(&with(2, partner, &[TENANT])), ["AuthorityNotAllowed"]);
        assert_eq!(reasons(&with(1, "http://x", &[TENANT, allow])), ["AuthorityNotAllowed"]);
        let allowed = with(1, partner, &[TENANT, allow]);
        assert_eq!(authority(&allowed).as_deref(), Some("https://login.partner.example"));
        let own = with(1, "https://login.microsoftonline.com/", &[TENANT]);
        assert_eq!(authority(&own), None);
        assert_eq!(authority(&with(0, partner, &[TENANT])), None);
    }

    #[test]
    fn the_nodes_identities_are_off_unless_asked_for() {
        let cluster = Cluster::default()
            .identity_with("web/app", &json!({"imdslet.dev/source": "managed"}), json!({}))
            .binding("web/b", "db", "app");
        let allow = ("allow-managed", "true");
        assert_eq!(reasons(&cluster.resolve(&[TENANT])), ["ManagedNotAllowed"]);
        let allowed = cluster.resolve(&[TENANT, allow]);
        assert_eq!(allowed.identities[0].identity.source, Source::Managed);
        let link_local = cluster.resolve_at(&[TENANT, allow], Endpoint::LinkLocal);
        assert_eq!(reasons(&link_local), ["ManagedInLinkLocal"]);
        // The node knows its tenant itself.
        assert_eq!(cluster.resolve(&[allow]).identities[0].identity.tenant_id, "");
    }

    #[test]
    fn identity_bindings_need_their_proxy() {
        let cluster = Cluster::default()
            .identity_with("web/app", &json!({"imdslet.dev/source": "binding"}), json!({}))
            .binding("web/b", "db", "app");
        assert_eq!(reasons(&cluster.resolve(&[TENANT])), ["NoBindingProxy"]);
        let proxy = ("binding-proxy", "https://kubernetes.default.svc");
        let resolution = cluster.resolve(&[TENANT, proxy]);
        assert_eq!(resolution.identities[0].identity.source, Source::Binding);
        assert_eq!(reasons(&cluster.resolve(&[proxy])), ["NoTenant"]);
    }

    #[test]
    fn each_reason_says_what_to_change() {
        let cluster = Cluster::default().binding("web/b", "db", "gone");
        assert_eq!(
            cluster.resolve(&[TENANT]).skipped[0].to_string(),
            "AzureIdentityBinding web/b: AzureIdentity web/gone does not exist; create it there or \
             mend spec.azureIdentity"
        );
    }
}
