//! Who uses an AzureIdentity, by which binding, and what must exist for them.

use std::collections::BTreeMap;

use imdslet_core::explain::explain_identity;
use imdslet_core::objects::ObjectName;

use super::report::{IdentityChain, Said, UsedBy, Verdict};
use super::target::IDENTITY;
use super::{Explainer, Need};

impl Explainer<'_> {
    pub(super) fn identity(&self, name: &ObjectName) -> Option<IdentityChain> {
        let (given, bindings) = explain_identity(&self.index, self.settings, name)?;
        let identity = given.as_ref().ok().map(|usable| &usable.identity);
        Some(IdentityChain {
            object: format!("{IDENTITY}/{name}"),
            client_id: identity.map(|identity| identity.client_id.clone()),
            resource_id: identity.and_then(|identity| identity.resource_id.clone()),
            source: identity.map(|identity| identity.source.as_str()),
            problem: given.as_ref().err().map(Said::of),
            bindings: bindings.iter().filter_map(|binding| self.binding(binding)).collect(),
            accounts: self.accounts(&name.to_string()),
        })
    }

    /// By service account, what must exist so that its pods get tokens of the identity.
    fn accounts(&self, identity: &str) -> Vec<UsedBy> {
        let mut accounts: BTreeMap<String, Need> = BTreeMap::new();
        for pod in self.labelled().into_iter().filter(|pod| pod.outcome == Verdict::Served) {
            let mut steps = pod.bindings.into_iter().filter(|step| step.identity == identity);
            if let Some(gives) = steps.find_map(|step| step.gives) {
                accounts.insert(pod.service_account, gives.needs);
            }
        }
        let used = |(service_account, needs)| UsedBy { service_account, needs };
        accounts.into_iter().map(used).collect()
    }
}
