//! What stands in a pod under a name of ours: our own from an earlier time, or somebody else's.

use std::iter;

use crate::names::{ADDRESS_CONTAINER, SIDECAR};
use crate::pod::{Container, List, PodView};
use crate::resolve::Usable;
use crate::running::endpoint_of;
use crate::settings::Endpoint;
use crate::sidecar::{SECRET_VOLUME, secret_volume};

/// The sidecar that a pod already has: its list, its place there, and itself.
pub(crate) type Own<'a> = (List, usize, &'a Container<'a>);

/// Something in the pod has a name that is ours. Each message names what to rename.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reserved {
    /// A container that is not ours.
    #[error(
        "spec.{list}[{at}].name is `{name}`, which is reserved for imdslet's own container; \
         rename the container"
    )]
    Container {
        /// `containers` or `initContainers`.
        list: &'static str,
        /// Its place in the list.
        at: usize,
        /// Its name.
        name: String,
    },
    /// More than one sidecar.
    #[error("the pod has {0} containers named `imdslet`; remove all of them, one will be added")]
    Sidecars(usize),
    /// A volume that is not ours.
    #[error(
        "spec.volumes[{at}].name is `{name}`, which is reserved for imdslet's own volume; \
         rename the volume"
    )]
    Volume {
        /// Its place in the list.
        at: usize,
        /// Its name.
        name: String,
    },
    /// A volume of our name beside our sidecar that is not what the sidecar came with.
    #[error(
        "spec.volumes[{at}] is named `{name}` and is not the projected volume that imdslet's own \
         container reads; remove both from the manifest, and new ones are added"
    )]
    OtherVolume {
        /// Its place in the list.
        at: usize,
        /// Its name.
        name: String,
    },
    /// A container that wants what only the sidecar may see.
    #[error(
        "container `{container}` mounts volume `{volume}`, which only imdslet's own container may \
         mount; remove the mount"
    )]
    Mount {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
}

/// The sidecar that the pod already has: the API server calls again after other webhooks, and
/// pods are copied and restored from backups.
pub(crate) fn own_sidecar<'a>(pod: &'a PodView<'a>) -> Result<Option<Own<'a>>, Reserved> {
    let mut named = pod.places().filter(|(_, _, container)| *container.name == *SIDECAR);
    let first = named.next();
    let others = named.count();
    match first {
        Some(_) if others > 0 => Err(Reserved::Sidecars(others + 1)),
        Some((list, at, container)) if !container.is_ours() => {
            Err(Reserved::Container { list: list.field(), at, name: container.name.to_string() })
        }
        first => Ok(first),
    }
}

/// Refuses what has a name of ours and is not ours, and whoever would see what only the sidecar may.
pub(crate) fn check_names(
    pod: &PodView<'_>,
    own: Option<Own<'_>>,
    identities: &[Usable],
) -> Result<(), Reserved> {
    for (list, at, container) in pod.places() {
        if *container.name == *ADDRESS_CONTAINER && !is_own_address(own, list, at, container) {
            let name = container.name.to_string();
            return Err(Reserved::Container { list: list.field(), at, name });
        }
    }
    let secrets = secret_volumes(own, identities);
    for (at, volume) in pod.volumes().iter().enumerate() {
        let is_named =
            *volume.name == *SIDECAR || secrets.iter().any(|name| **name == *volume.name);
        let name = || volume.name.to_string();
        match own {
            None if is_named => return Err(Reserved::Volume { at, name: name() }),
            // What else could have that name holds other files than the API server and the kubelet
            // write.
            Some(_) if *volume.name == *SIDECAR && volume.projected.is_none() => {
                return Err(Reserved::OtherVolume { at, name: name() });
            }
            _ => {}
        }
    }
    let others = pod.places().filter(|(list, at, _)| {
        own.is_none_or(|(own_list, own_at, _)| (own_list, own_at) != (*list, *at))
    });
    for (_, _, container) in others {
        let mut ours = iter::once(SIDECAR).chain(secrets.iter().map(String::as_str));
        if let Some(volume) = ours.find(|volume| container.mounts(volume)) {
            let container = container.name.to_string();
            return Err(Reserved::Mount { container, volume: volume.to_owned() });
        }
    }
    Ok(())
}

/// Whether an init container is the one that a sidecar in link-local mode came with.
fn is_own_address(own: Option<Own<'_>>, list: List, at: usize, container: &Container<'_>) -> bool {
    let is_link_local = own.is_some_and(|(own_list, own_at, sidecar)| {
        let is_before = own_list != list || at < own_at;
        is_before && endpoint_of(sidecar) == Endpoint::LinkLocal
    });
    is_link_local && list == List::InitContainers && container.adds_the_address()
}

/// The volumes of Secrets that the sidecar mounts, or will.
fn secret_volumes(own: Option<Own<'_>>, identities: &[Usable]) -> Vec<String> {
    if let Some((_, _, sidecar)) = own {
        let mounts = sidecar.volume_mounts.iter().flatten().map(|mount| mount.name.to_string());
        // Another webhook may have mounted something of its own in every container.
        return mounts.filter(|name| name.starts_with(SECRET_VOLUME)).collect();
    }
    let secrets = identities.iter().filter_map(|usable| usable.identity.secret.as_deref());
    secrets.map(secret_volume).collect()
}
