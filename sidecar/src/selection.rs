//! Which identity of the pod a request gets, or why none. Pure.

use std::time::Duration;

use imdslet_core::contract::{PodIdentities, PodIdentity};
use imdslet_core::names::POD_LABEL;

use crate::request::Selector;
use crate::resource::Resource;

/// When a pod that waits for its binding may ask again. The kubelet carries a change into the
/// volume in about a second.
const BOUND_SOON: Duration = Duration::from_secs(2);

/// Why a request gets no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "no AzureIdentityBinding for this pod's {POD_LABEL} label can be used yet; the pod's events say \
         why; ask again"
    )]
    NotBoundYet,
    #[error(
        "this pod has no identity: no AzureIdentityBinding for its {POD_LABEL} label can be used any \
         more; the pod's events say why"
    )]
    BindingLost,
    /// The ids asked for are not repeated: the client knows them.
    #[error(
        "no identity of this pod has the {asked} of the request; the pod has {names}; send the id \
         of one of these, or none for the first{hint}"
    )]
    Unknown { asked: String, names: String, hint: &'static str },
    #[error(
        "identity {identity} gives no token for this resource; its annotation \
         imdslet.dev/allowed-resources allows {allowed}"
    )]
    Resource { identity: String, allowed: String },
}

impl Refusal {
    /// Stable name for logs and metrics. Never carries user input.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotBoundYet => "NotBoundYet",
            Self::BindingLost => "BindingLost",
            Self::Unknown { .. } => "UnknownIdentity",
            Self::Resource { .. } => "ResourceNotAllowed",
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::NotBoundYet).then_some(BOUND_SOON)
    }
}

/// Selects the identity that `selector` means, or the first.
///
/// `has_object_id` says whether a token that is held for the identity has this object id; it is
/// asked only where the AzureIdentity does not state one.
pub(crate) fn select<'a>(
    pod: &'a PodIdentities,
    selector: &Selector<'_>,
    has_object_id: impl Fn(&PodIdentity, &str) -> bool,
) -> Result<&'a PodIdentity, Refusal> {
    if pod.hold {
        return Err(Refusal::NotBoundYet);
    }
    if pod.identities.is_empty() {
        return Err(Refusal::BindingLost);
    }
    let found = pod.identities.iter().find(|identity| {
        let object = || {
            selector.object_id.as_deref().is_none_or(|id| match &identity.object_id {
                Some(own) => same(id, own),
                None => has_object_id(identity, id),
            })
        };
        has_ids(identity, selector) && object()
    });
    found.ok_or_else(|| unknown(pod, selector))
}

/// The identities that `selector` may mean by its object id, as far as what stands in `pod` tells,
/// and that may have a token for `resource`. `is_known` says whether the object id of one is known
/// by a token: that one is not meant, or [`select`] would have found it.
pub(crate) fn candidates<'a>(
    pod: &'a PodIdentities,
    selector: &Selector<'_>,
    resource: &Resource,
    is_known: impl Fn(&PodIdentity) -> bool,
) -> impl Iterator<Item = &'a PodIdentity> {
    pod.identities.iter().filter(move |identity| {
        identity.object_id.is_none()
            && has_ids(identity, selector)
            && allow(identity, resource).is_ok()
            && !is_known(identity)
    })
}

/// Whether the client id and the resource id of `selector` are those of `identity`.
fn has_ids(identity: &PodIdentity, selector: &Selector<'_>) -> bool {
    let own = identity.resource_id.as_deref();
    selector.client_id.as_deref().is_none_or(|id| same(id, &identity.client_id))
        && selector.resource_id.as_deref().is_none_or(|id| own.is_some_and(|own| same(id, own)))
}

/// Refuses a token for `resource` where `identity` does not allow it.
pub(crate) fn allow(identity: &PodIdentity, resource: &Resource) -> Result<(), Refusal> {
    match &identity.allowed_resources {
        Some(allowed) if !allowed.iter().any(|one| resource.is(one)) => Err(Refusal::Resource {
            identity: identity.name.clone(),
            allowed: if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") },
        }),
        _ => Ok(()),
    }
}

/// GUIDs and Azure resource ids are the same in any letter case.
fn same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn unknown(pod: &PodIdentities, selector: &Selector<'_>) -> Refusal {
    let asked: Vec<_> = [
        ("client_id", &selector.client_id),
        ("object_id", &selector.object_id),
        ("mi_res_id", &selector.resource_id),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.as_ref().map(|_| name))
    .collect();
    let names: Vec<_> = pod.identities.iter().map(|identity| identity.name.as_str()).collect();
    let unstated = pod.identities.iter().any(|identity| identity.object_id.is_none());
    let hint = match selector.object_id {
        Some(_) if unstated => {
            "; an object id is known from the annotation imdslet.dev/object-id of an AzureIdentity, \
             or from a token that is held"
        }
        _ => "",
    };
    Refusal::Unknown { asked: asked.join(" and "), names: names.join(", "), hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{identity, pod};

    fn selector(client: &str, object: &str, resource: &str) -> Selector<'static> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned().into());
        Selector { client_id: some(client), object_id: some(object), resource_id: some(resource) }
    }

    #[test]
    fn every_id_given_must_be_of_the_same_identity() {
        let mut stated = identity("web/stated", '3');
        stated.object_id = Some("0B000000-0000-0000-0000-000000000003".to_owned());
        let pod = pod([identity("web/db", '1'), identity("ops/mail", '2'), stated]);
        let one = "c0000000-0000-0000-0000-000000000001";
        let two = "C0000000-0000-0000-0000-000000000002";
        let id_two = "/SUBSCRIPTIONS/s/resourceGroups/RG one/providers/Microsoft.ManagedIdentity/userAssignedIdentities/ID-2";
        let held_two = "0b000000-0000-0000-0000-000000000002";
        let unknown = Err("UnknownIdentity");
        let cases = [
            ("none given: the first", selector("", "", ""), Ok("web/db")),
            ("by client id", selector(one, "", ""), Ok("web/db")),
            ("letter case does not count", selector(two, "", ""), Ok("ops/mail")),
            ("by resource id", selector("", "", id_two), Ok("ops/mail")),
            ("both of one", selector(two, "", id_two), Ok("ops/mail")),
            ("of two different ones", selector(one, "", id_two), unknown),
            ("object id of a token held", selector("", held_two, ""), Ok("ops/mail")),
            ("and not of another's", selector(one, held_two, ""), unknown),
            (
                "object id as stated",
                selector("", &held_two.replace('2', "3"), ""),
                Ok("web/stated"),
            ),
            ("unknown", selector("c0000000-0000-0000-0000-000000000009", "", ""), unknown),
            ("a name is no id", selector("web/db", "", ""), unknown),
        ];
        for (name, selector, expected) in cases {
            let got = select(&pod, &selector, |identity, object| {
                identity.name == "ops/mail" && object == held_two
            });
            let got = got.map(|found| found.name.as_str()).map_err(|refusal| refusal.reason());
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn a_stated_object_id_is_not_overruled_by_a_token() {
        let mut stated = identity("web/db", '1');
        stated.object_id = Some("0b000000-0000-0000-0000-000000000001".to_owned());
        let other = selector("", "0b000000-0000-0000-0000-000000000002", "");
        let got = select(&pod([stated]), &other, |_, _| true).map(|_| ());
        assert_eq!(got.unwrap_err().reason(), "UnknownIdentity");
    }

    #[test]
    fn refusals_list_names_and_no_ids() {
        let pod = pod([identity("web/db", '1'), identity("ops/mail", '2')]);
        let asked = selector("x", "", "y");
        let refusal = select(&pod, &asked, |_, _| false).map(|_| ()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "no identity of this pod has the client_id and mi_res_id of the request; the pod has \
             web/db, ops/mail; send the id of one of these, or none for the first"
        );
    }

    #[test]
    fn a_pod_without_identities_waits_or_has_lost_them() {
        let mut waiting = pod([]);
        waiting.hold = true;
        let refusal = |pod: &PodIdentities| {
            select(pod, &Selector::default(), |_, _| false).map(|_| ()).unwrap_err()
        };
        assert_eq!(refusal(&waiting), Refusal::NotBoundYet);
        assert_eq!(refusal(&waiting).retry_after(), Some(BOUND_SOON));
        assert_eq!(refusal(&pod([])), Refusal::BindingLost);
        assert_eq!(refusal(&pod([])).retry_after(), None);
    }

    #[test]
    fn allowed_resources_allow_what_they_name_and_a_trailing_slash() {
        let mut guarded = identity("web/db", '1');
        guarded.allowed_resources = Some(vec!["https://vault.azure.net".to_owned()]);
        let mut closed = identity("web/closed", '2');
        closed.allowed_resources = Some(Vec::new());
        for (resource, allowed) in [
            ("https://vault.azure.net", true),
            ("https://vault.azure.net/", true),
            ("https://VAULT.azure.net", false),
            ("https://vault.azure.net/.default", false),
            ("https://management.azure.com/", false),
        ] {
            let resource = Resource::parse(resource.to_owned()).unwrap();
            assert_eq!(allow(&guarded, &resource).is_ok(), allowed, "{resource:?}");
            let refused = allow(&closed, &resource).unwrap_err();
            assert_eq!(refused.reason(), "ResourceNotAllowed");
        }
    }
}
