//! Which derived class a pod's volume is pointed to.

use serde::Deserialize;
use std::collections::BTreeMap;

use super::class::{Origin, ProviderClass};
use super::plan::provider_identity;
use crate::index::Index;
use crate::names::DRIVER;
use crate::objects::ObjectName;
use crate::pod::PodView;
use crate::resolve::Usable;
use crate::text::Text;
use crate::warning::Warning;

/// The attribute of a volume that names its class.
pub(crate) const CLASS_ATTRIBUTE: &str = "secretProviderClass";

/// A volume that is to name another class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// Its place among the pod's volumes.
    pub(crate) at: usize,
    /// The derived class.
    pub(crate) class: String,
}

/// The part of an ephemeral CSI volume that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Csi<'a> {
    #[serde(borrow, default)]
    driver: Text<'a>,
    #[serde(borrow, default)]
    volume_attributes: Option<BTreeMap<Text<'a>, Option<Text<'a>>>>,
}

/// The Secrets Store volumes of a pod: place, name, class.
pub(super) fn class_names(pod: &PodView<'_>) -> impl Iterator<Item = (usize, String, String)> {
    pod.volumes().iter().enumerate().filter_map(|(at, volume)| {
        // What cannot be read is the API server's to refuse.
        let csi: Csi<'_> = serde_json::from_str(volume.csi?.get()).ok()?;
        let attributes = csi.volume_attributes.filter(|_| *csi.driver == *DRIVER)?;
        let class = attributes.get(CLASS_ATTRIBUTE)?.as_ref()?.to_string();
        Some((at, volume.name.to_string(), class))
    })
}

/// Which volumes of a pod with this label and these identities are pointed to which derived class,
/// and what is to be said of those that are not although NMI would be asked for them.
///
/// Only to one that is there: of one that is not it is not known whether it will ever be.
pub(crate) fn redirects(
    index: &Index,
    (namespace, selector): (&str, &str),
    identities: &[Usable],
    pod: &PodView<'_>,
) -> (Vec<Redirect>, Vec<Warning>) {
    let (mut redirects, mut warnings) = (Vec::new(), Vec::new());
    for (at, volume, named) in class_names(pod) {
        let class = match index.class(&ObjectName::new(namespace, &*named)) {
            Some(ProviderClass::AsksNmi(_)) => named.clone(),
            // A copy or a backup of a pod of ours. Its label may be another one.
            Some(ProviderClass::Derived(origin, _)) => origin.class.clone(),
            Some(ProviderClass::Namesake | ProviderClass::Other) | None => continue,
        };
        if !identities.is_empty() && provider_identity(identities).is_none() {
            warnings.push(Warning::NoProviderIdentity { volume, class });
            continue;
        }
        let origin = Origin { class, selector: selector.to_owned() };
        let derived = origin.name();
        let is_there = match index.class(&ObjectName::new(namespace, &*derived)) {
            Some(ProviderClass::Derived(found, stored)) => *found == origin && !stored.is_ending,
            _ => false,
        };
        if !is_there || identities.is_empty() {
            let class = origin.class;
            warnings.push(Warning::ClassNotReady { volume, class, derived });
        } else if derived != named {
            redirects.push(Redirect { at, class: derived });
        }
    }
    (redirects, warnings)
}
