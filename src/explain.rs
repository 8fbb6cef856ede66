//! `imdslet explain`: which identity a pod gets, by which binding, and why not by the others; and whom a
//! binding or an identity serves.
//!
//! A function of the objects and the settings: the decisions are those of the webhook.

mod args;
mod decided;
mod identity;
mod report;
mod target;
mod tree;

use imdslet_core::admission::{Admission, Outcome};
use imdslet_core::contract::{PodIdentities, Source};
use imdslet_core::explain::{Chain, Considered, explain as chain_of, explain_binding};
use imdslet_core::federation::MissingCredential;
use imdslet_core::index::Index;
use imdslet_core::names::{IDENTITIES, POD_LABEL};
use imdslet_core::objects::{Kind, Object, ObjectName};
use imdslet_core::pod::PodView;
use imdslet_core::resolve::Usable;
use imdslet_core::settings::Settings;
use imdslet_core::warning::Warning;
use serde_json::Value;

use crate::documents::Document;
use crate::family::Family;
use crate::inject::index;
use crate::workloads::{PodSite, objects, pods, text};

pub use args::ExplainArgs;
pub use report::{
    BindingChain, Explained, Gives, IdentityChain, Matched, Need, PodChain, Said, Step, UsedBy,
    Verdict,
};
use target::{BINDING, IDENTITY};
pub use target::{NotATarget, Target};

/// How the explanation is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A tree for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// Why something cannot be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unexplained {
    /// There is no such object.
    #[error(
        "there is no {0} among the objects that were read; pods, workloads, AzureIdentities and \
         AzureIdentityBindings are explained"
    )]
    NotThere(Target),
    /// Nothing to explain at all.
    #[error(
        "no pod among the objects that were read has the label {POD_LABEL}, and none is bound; \
         name what is to be explained: KIND/NAME"
    )]
    Nothing,
}

/// What an explanation is made of.
struct Explainer<'a> {
    documents: &'a [Document],
    settings: &'a Settings,
    issuer: Option<&'a str>,
    namespace: &'a str,
    index: Index,
}

/// Explains `targets`, or without any every labelled pod and workload that nobody else among the
/// objects has made. `namespace` is that of objects and targets that name none.
///
/// # Errors
///
/// [`Unexplained`].
pub fn explain(
    documents: &[Document],
    settings: &Settings,
    issuer: Option<&str>,
    namespace: &str,
    targets: &[Target],
) -> Result<Explained, Unexplained> {
    let mut explained = Explained::default();
    let index = index(documents, namespace, &mut explained.problems);
    let all = Explainer { documents, settings, issuer, namespace, index };
    if targets.is_empty() {
        explained.pods = all.labelled();
        if explained.pods.is_empty() {
            return Err(Unexplained::Nothing);
        }
    }
    for target in targets {
        let own = target.namespace.as_deref().unwrap_or(namespace);
        let name = ObjectName::new(own, &*target.name);
        let not_there = || Unexplained::NotThere(target.clone());
        if target.kind == BINDING {
            explained.bindings.push(all.binding(&name).ok_or_else(not_there)?);
        } else if target.kind == IDENTITY {
            explained.identities.push(all.identity(&name).ok_or_else(not_there)?);
        } else {
            let found = all.sites().find(|(_, site)| target.is(&site.object, namespace));
            let chain = found.and_then(|(document, site)| all.pod(document, &site));
            explained.pods.push(chain.ok_or_else(not_there)?);
        }
    }
    Ok(explained)
}

impl Explained {
    /// Whether everything that asked for an identity has one.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        let is_served = |pod: &PodChain| pod.label.is_none() || pod.outcome == Verdict::Served;
        let gives = |binding: &BindingChain| binding.problem.is_none();
        let is_usable = |identity: &IdentityChain| identity.problem.is_none();
        self.pods.iter().all(is_served)
            && self.bindings.iter().all(gives)
            && self.identities.iter().all(is_usable)
    }

    /// As it is printed.
    #[must_use]
    pub fn write(&self, format: Format) -> String {
        match format {
            Format::Text => tree::write(self),
            Format::Json => {
                let text = serde_json::to_string_pretty(self).unwrap_or_default();
                format!("{text}\n")
            }
        }
    }
}

impl<'a> Explainer<'a> {
    fn sites(&self) -> impl Iterator<Item = (&'a Document, PodSite)> {
        let namespace = self.namespace;
        let sites = move |document: &'a Document| {
            pods(&document.value, namespace).into_iter().map(move |site| (document, site))
        };
        self.documents.iter().flat_map(sites)
    }

    /// Every labelled pod and workload that nobody else among the objects has made.
    fn labelled(&self) -> Vec<PodChain> {
        let family = Family::of(self.documents, self.namespace);
        let is_first = |site: &PodSite| {
            let root = family.root(&site.object);
            root == site.object || !family.has(&root)
        };
        let sites = self.sites().filter(|(_, site)| is_first(site));
        let chains = sites.filter_map(|(document, site)| self.pod(document, &site));
        chains.filter(|chain| chain.label.is_some()).collect()
    }

    fn pod(&self, document: &Document, site: &PodSite) -> Option<PodChain> {
        let pod = document.value.pointer(&site.pointer)?;
        let account = pod.pointer("/spec").and_then(|spec| {
            text(spec, "serviceAccountName").or_else(|| text(spec, "serviceAccount"))
        });
        let account = ObjectName::new(&*site.namespace, account.unwrap_or("default"));
        let json = pod.to_string();
        let mut chain = PodChain {
            object: site.object.clone(),
            service_account: account.to_string(),
            label: None,
            outcome: Verdict::Untouched,
            reason: None,
            message: None,
            told: told(pod),
            bindings: Vec::new(),
            near: Vec::new(),
            warnings: Vec::new(),
        };
        match PodView::read(&json) {
            Ok(view) => match chain_of(&self.index, self.settings, &site.namespace, &view) {
                Some(found) => self.fill(&mut chain, &account, found),
                None => chain.unlabelled(site.is_label_misplaced),
            },
            Err(unreadable) => {
                chain.outcome = Verdict::Refused;
                (chain.reason, chain.message) = (Some("Unreadable"), Some(unreadable.to_string()));
            }
        }
        Some(chain)
    }

    fn fill(&self, chain: &mut PodChain, account: &ObjectName, found: Chain) {
        let Chain { selector, admission, considered, near } = found;
        let identities = match &admission {
            Ok(Admission { outcome: Outcome::Injected { identities, .. }, .. }) => {
                identities.clone()
            }
            _ => Vec::new(),
        };
        let default = considered.iter().position(|one| {
            let first = identities.first();
            one.given.as_ref().is_ok_and(|usable| Some(&usable.identity.name) == first)
        });
        let steps = considered.iter().enumerate();
        let steps = steps.map(|(at, one)| self.step(account, one, Some(at) == default));
        chain.bindings = steps.collect();
        chain.label = Some(selector);
        chain.near = near
            .iter()
            .map(|near| Said { reason: near.reason(), message: near.to_string() })
            .collect();
        chain.decided(admission, identities.is_empty());
    }

    fn step(&self, account: &ObjectName, considered: &Considered, is_default: bool) -> Step {
        let Considered { binding, identity, given, is_repeated } = considered;
        let skipped = match given {
            Ok(_) if *is_repeated => Some(Said {
                reason: "Repeated",
                message: "an earlier binding gives the same identity".to_owned(),
            }),
            Ok(_) => None,
            Err(skip) => Some(Said { reason: skip.reason(), message: skip.to_string() }),
        };
        Step {
            binding: binding.to_string(),
            identity: identity.to_string(),
            is_default,
            gives: given.as_ref().ok().filter(|_| !is_repeated).map(|one| self.gives(account, one)),
            skipped,
        }
    }

    fn gives(&self, account: &ObjectName, usable: &Usable) -> Gives {
        let identity = &usable.identity;
        let subject = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
        let needs = match identity.source {
            Source::Federated => {
                let credential = MissingCredential {
                    resource_id: identity.resource_id.as_deref(),
                    issuer: self.issuer,
                    subject: Some(&subject),
                    audience: Some(&self.settings.audience),
                };
                let command = credential.to_string();
                Need::FederatedCredential {
                    issuer: self.issuer.map(str::to_owned),
                    audience: self.settings.audience.clone(),
                    command,
                    subject,
                }
            }
            Source::Binding => Need::IdentityBinding {
                subject,
                resource: format!("{}.cid.wi.aks.azure.com", identity.client_id),
            },
            Source::Managed => Need::NodeIdentity,
            Source::Secret | Source::Certificate => Need::Secret {
                name: format!(
                    "{}/{}",
                    account.namespace,
                    identity.secret.as_deref().unwrap_or_default()
                ),
            },
        };
        Gives {
            source: identity.source.as_str(),
            client_id: identity.client_id.clone(),
            resource_id: identity.resource_id.clone(),
            tenant_id: identity.tenant_id.clone(),
            allowed_resources: identity.allowed_resources.clone(),
            needs,
        }
    }

    fn binding(&self, name: &ObjectName) -> Option<BindingChain> {
        let object = format!("{BINDING}/{name}");
        let Some((selector, considered, warning)) =
            explain_binding(&self.index, self.settings, name)
        else {
            return self.broken_binding(name, object);
        };
        let of_pod = |chain: PodChain| {
            let step = chain.bindings.into_iter().find(|step| step.binding == name.to_string())?;
            let gives = step.gives.is_some() && chain.outcome == Verdict::Served;
            let skipped = step.skipped.or_else(|| {
                let said = || Said {
                    reason: chain.reason.unwrap_or(""),
                    message: chain.message.unwrap_or_default(),
                };
                (!gives).then(said)
            });
            Some(Matched { object: chain.object, gives, is_default: step.is_default, skipped })
        };
        let said = warning.as_ref().map(Said::of);
        let (note, problem) = match warning {
            Some(Warning::Shadowed(_)) => (said, None),
            _ => (None, said),
        };
        Some(BindingChain {
            object,
            selector,
            identity: considered.identity.to_string(),
            problem,
            note,
            pods: self.labelled().into_iter().filter_map(of_pod).collect(),
        })
    }

    /// A binding that is there and matches nothing.
    fn broken_binding(&self, name: &ObjectName, object: String) -> Option<BindingChain> {
        let all = self.documents.iter().flat_map(|document| objects(&document.value));
        let read = all.filter_map(|(_, value)| Object::read(value, self.namespace).ok().flatten());
        let mut broken = read.filter(|one| {
            let (kind, other) = one.id();
            kind == Kind::AzureIdentityBinding && other == name
        });
        let message = broken.next()?.fault()?.to_string();
        let problem = Some(Said { reason: "InvalidObject", message });
        let (selector, identity) = (String::new(), String::new());
        Some(BindingChain { object, selector, identity, problem, note: None, pods: Vec::new() })
    }
}

/// The identities that the pod's annotation has, if it has a sidecar to read it.
fn told(pod: &Value) -> Option<Vec<String>> {
    let annotations = pod.pointer("/metadata/annotations")?;
    let told = text(annotations, IDENTITIES)?;
    let told: PodIdentities = serde_json::from_str(told).ok()?;
    Some(told.identities.into_iter().map(|identity| identity.name).collect())
}
