//! What an operator sets once for a cluster: the same for the webhook and for `imdslet inject`.

use std::collections::BTreeMap;

use crate::arguments::{Mode, TokenProxy};
use crate::names::DEFAULT_PORT;
use crate::resources::Preset;

mod egress;
mod flags;
mod read;
mod words;

pub use egress::Egress;
pub use flags::{FLAGS, Flag};
use read::Reader;
pub(crate) use read::{PORT_RANGE, parse_port};
pub(crate) use words::Word;
pub use words::{Cloud, Endpoint, Scope, WhenUnbound};

/// The largest CA bundle that travels to a sidecar, in bytes. It stands in every pod, and a pod is
/// an object of at most 1.5 MiB.
pub const EXTRA_CA_LIMIT: usize = 64 * 1024;

/// The uid and gid of the sidecar where nothing else is said. Not 65532, which is many an app's.
pub const DEFAULT_USER: u32 = 2579;

/// What an operator sets once for a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Tenant of identities that name none.
    pub tenant_id: Option<String>,
    /// Base URL of Entra ID.
    pub authority: String,
    /// Audience of the service account tokens that Entra ID exchanges.
    pub audience: String,
    /// Other authorities that `spec.adEndpoint` of types 1 and 2 may name.
    pub allowed_authorities: Vec<String>,
    /// Whether `imdslet.dev/source: managed` is honoured.
    pub allow_managed: bool,
    /// Through which `imdslet.dev/source: binding` is served; `None`: it is not.
    pub binding: Option<Binding>,
    /// How sidecars reach Entra ID.
    pub egress: Egress,
    /// How those of single namespaces do.
    pub namespaces: BTreeMap<String, Egress>,
    /// Which bindings a pod may match.
    pub scope: Scope,
    /// Image of the sidecar.
    pub sidecar_image: String,
    /// Secrets, of each pod's own namespace, by which its node may pull that image.
    pub sidecar_pull_secrets: Vec<String>,
    /// The sidecar's uid and gid; `None` leaves them to the platform.
    pub sidecar_user: Option<u32>,
    /// What the sidecar asks of its node, where pod and namespace say nothing.
    pub sidecar_resources: Preset,
    /// Where sidecars serve their metrics to the cluster; `None`: nowhere.
    pub sidecar_metrics_port: Option<u16>,
    /// How tokens are asked for, where pod and namespace say nothing.
    pub endpoint: Endpoint,
    /// What becomes of unbound pods, where pod and namespace say nothing.
    pub when_unbound: WhenUnbound,
    /// How the sidecar runs, where pod and namespace say nothing.
    pub sidecar: Mode,
    /// Port of the token endpoint, where pod and namespace say nothing.
    pub port: u16,
}

/// What AKS identity bindings need in every pod that uses one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where the token requests go.
    pub proxy: TokenProxy,
    /// The ConfigMap of the pod's namespace whose `ca.crt` signed the proxy's certificate.
    pub ca_config_map: String,
}

/// What was given for the flags, by name: as texts, and of a flag that names a file its content.
pub type Given = BTreeMap<&'static str, Vec<String>>;

/// A flag whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} ({variable}) is `{value}`; it must be {expected}", variable = variable(flag))]
pub struct Mistake {
    /// The flag's name.
    pub flag: &'static str,
    /// What was given.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

/// The variable that stands in for a flag.
fn variable(flag: &str) -> &'static str {
    FLAGS.iter().find(|known| known.name == flag).map_or("", |known| known.variable)
}

/// The image of the sidecar where nothing else is said: this release's, from the node's own
/// registry settings.
const DEFAULT_IMAGE: &str = concat!("imdslet-sidecar:", env!("CARGO_PKG_VERSION"));

impl Settings {
    /// Reads the settings from what was given.
    ///
    /// # Errors
    ///
    /// Every [`Mistake`], so that all can be mended at once.
    pub fn read(given: &Given) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader { given, mistakes: Vec::new() };
        let cloud = reader.word::<Cloud>("cloud").unwrap_or_default();
        let egress = reader.egress();
        let default_mode = match reader.kubernetes_minor() {
            // Below, kubelets within the version skew may lack native sidecars (on by default from
            // 1.29).
            Some(minor) if minor < 32 => Mode::Container,
            _ => Mode::Native,
        };
        let settings = Self {
            tenant_id: reader.tenant(),
            authority: reader.authority().unwrap_or_else(|| cloud.authority().to_owned()),
            audience: reader.text("audience").unwrap_or(cloud.audience()).to_owned(),
            allowed_authorities: reader.allowed_authorities(),
            allow_managed: reader.switch("allow-managed"),
            binding: reader.binding(),
            namespaces: reader.namespaces(&egress),
            egress,
            scope: reader.word("scope").unwrap_or(Scope::Cluster),
            sidecar_image: reader.text("sidecar-image").unwrap_or(DEFAULT_IMAGE).to_owned(),
            sidecar_pull_secrets: reader.pull_secrets(),
            sidecar_user: reader.user(),
            sidecar_resources: reader.resources(),
            sidecar_metrics_port: reader.port("sidecar-metrics-port"),
            endpoint: reader.word("endpoint").unwrap_or(Endpoint::Env),
            when_unbound: reader.word("when-unbound").unwrap_or(WhenUnbound::Wait),
            sidecar: reader.word("sidecar").unwrap_or(default_mode),
            port: reader.port("port").unwrap_or(DEFAULT_PORT),
        };
        if settings.sidecar_metrics_port == Some(settings.port) {
            let port = settings.port.to_string();
            reader.mistake("sidecar-metrics-port", &port, "another port than --port");
        }
        if reader.mistakes.is_empty() { Ok(settings) } else { Err(reader.mistakes) }
    }

    /// How the sidecars of `namespace` reach Entra ID.
    #[must_use]
    pub fn egress_of(&self, namespace: &str) -> &Egress {
        self.namespaces.get(namespace).unwrap_or(&self.egress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&'static str, &str)]) -> Result<Settings, Vec<String>> {
        let mut map = Given::new();
        for (flag, value) in given {
            map.entry(flag).or_default().push((*value).to_owned());
        }
        Settings::read(&map).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_given_is_the_public_cloud() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.authority, "https://login.microsoftonline.com");
        assert_eq!(settings.audience, "api://AzureADTokenExchange");
        assert_eq!(settings.tenant_id, None);
        assert_eq!(settings.sidecar, Mode::Native);
        assert_eq!(settings.sidecar_user, Some(2579));
        assert_eq!((settings.port, settings.sidecar_metrics_port), (2579, None));
    }

    #[test]
    fn metrics_have_a_port_of_their_own() {
        let port =
            |flag, value| read(&[(flag, value)]).map(|settings| settings.sidecar_metrics_port);
        assert_eq!(port("sidecar-metrics-port", "9579"), Ok(Some(9579)));
        assert_eq!(
            port("sidecar-metrics-port", "2579").unwrap_err(),
            [
                "--sidecar-metrics-port (IMDSLET_SIDECAR_METRICS_PORT) is `2579`; it must be another \
              port than --port"
            ]
        );
    }

    #[test]
    fn the_cloud_decides_authority_and_audience_unless_they_are_given() {
        let settings = read(&[("cloud", "usgov")]).unwrap();
        assert_eq!(settings.authority, "https://login.microsoftonline.us");
        assert_eq!(settings.audience, "api://AzureADTokenExchangeUSGov");
        let settings = read(&[("cloud", "china"), ("authority", "https://Login.example/")]);
        assert_eq!(settings.unwrap().authority, "https://login.example");
    }

    #[test]
    fn identity_bindings_need_a_proxy_and_find_its_ca_where_kubernetes_puts_it() {
        assert_eq!(read(&[]).unwrap().binding, None);
        let url = ("binding-proxy", "https://Kubernetes.default.svc/");
        let binding = read(&[url]).unwrap().binding.unwrap();
        assert_eq!(binding.proxy.url, "https://kubernetes.default.svc");
        assert_eq!((binding.proxy.sni, &*binding.ca_config_map), (None, "kube-root-ca.crt"));
        let more = [url, ("binding-sni", "1a2b.ests.aks"), ("binding-ca-config-map", "proxy-ca")];
        let binding = read(&more).unwrap().binding.unwrap();
        assert_eq!(binding.proxy.sni.as_deref(), Some("1a2b.ests.aks"));
        assert_eq!(binding.ca_config_map, "proxy-ca");
        assert_eq!(
            read(&[("binding-sni", "1a2b.ests.aks")]).unwrap_err(),
            ["--binding-sni (IMDSLET_BINDING_SNI) is `1a2b.ests.aks`; it must be left out, or \
              --binding-proxy given"]
        );
    }

    #[test]
    fn old_clusters_get_a_plain_container() {
        let mode = |version| read(&[("kubernetes-version", version)]).unwrap().sidecar;
        assert_eq!(mode("v1.31.9"), Mode::Container);
        assert_eq!(mode("1.32"), Mode::Native);
        assert_eq!(mode("1.34+"), Mode::Native);
        let given = read(&[("kubernetes-version", "1.29"), ("sidecar", "native")]);
        assert_eq!(given.unwrap().sidecar, Mode::Native);
    }

    #[test]
    fn every_mistake_is_listed_at_once() {
        let mistakes = read(&[
            ("tenant-id", "common"),
            ("cloud", "german"),
            ("authority", "http://login.example"),
            ("allow-authority", "https://a.example,b.example"),
            ("extra-ca", "nothing"),
            ("https-proxy", "socks5://me:p4ss@proxy.example"),
            ("sidecar-pull-secret", "registry,Not_A_Name"),
            ("sidecar-run-as-user", "0"),
            ("sidecar-metrics-port", "9"),
            ("port", "80"),
            ("kubernetes-version", "new"),
            ("allow-managed", "yes"),
            ("binding-proxy", "kubernetes.default.svc"),
            ("binding-sni", "a b"),
            ("binding-ca-config-map", "Root_CA"),
        ]);
        assert_eq!(
            mistakes.unwrap_err(),
            [
                "--cloud (IMDSLET_CLOUD) is `german`; it must be `public` or `usgov` or `china`",
                "--extra-ca (IMDSLET_EXTRA_CA) is `(a file)`; it must be a PEM file with certificates",
                "--https-proxy (IMDSLET_HTTPS_PROXY) is `(a URL)`; it must be http://[USER[:PASSWORD]@]HOST[:PORT]",
                "--kubernetes-version (IMDSLET_KUBERNETES_VERSION) is `new`; it must be a version such as 1.34",
                "--tenant-id (AZURE_TENANT_ID) is `common`; it must be a tenant id (GUID) or a tenant's domain name",
                "--authority (AZURE_AUTHORITY_HOST) is `http://login.example`; it must be an https URL of scheme, host \
                 and port alone",
                "--allow-authority (IMDSLET_ALLOW_AUTHORITY) is `b.example`; it must be an https URL of scheme, host and \
                 port alone",
                "--allow-managed (IMDSLET_ALLOW_MANAGED) is `yes`; it must be `true` or `false`",
                "--binding-proxy (IMDSLET_BINDING_PROXY) is `kubernetes.default.svc`; it must be an https URL of scheme, \
                 host and port alone",
                "--binding-sni (IMDSLET_BINDING_SNI) is `a b`; it must be a DNS name",
                "--binding-ca-config-map (IMDSLET_BINDING_CA_CONFIG_MAP) is `Root_CA`; it must be the name of a ConfigMap",
                "--sidecar-pull-secret (IMDSLET_SIDECAR_PULL_SECRET) is `Not_A_Name`; it must be the name of a Secret",
                "--sidecar-run-as-user (IMDSLET_SIDECAR_RUN_AS_USER) is `0`; it must be a uid from 1 to 2147483647, or none",
                "--sidecar-metrics-port (IMDSLET_SIDECAR_METRICS_PORT) is `9`; it must be a port from 1024 to 65535",
                "--port (IMDSLET_PORT) is `80`; it must be a port from 1024 to 65535",
            ]
        );
    }

    /// As shells, charts and the blocks of YAML write them.
    #[test]
    fn a_list_is_given_by_one_text_or_by_many() {
        let expected = ["registry", "other.example"];
        for given in [
            &["registry", "other.example"][..],
            &["registry,other.example"],
            &["registry, other.example,"],
            &[" registry\nother.example\n"],
            &["registry", "registry,other.example", ""],
        ] {
            let given: Vec<_> = given.iter().map(|text| ("sidecar-pull-secret", *text)).collect();
            assert_eq!(read(&given).unwrap().sidecar_pull_secrets, expected, "{given:?}");
        }
    }

    #[test]
    fn empty_values_are_absent() {
        assert_eq!(read(&[("tenant-id", ""), ("port", " ")]), read(&[]));
    }
}
