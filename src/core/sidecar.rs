//! The containers and volumes that a pod gets.

use serde_json::Value;

use crate::added::{
    Capabilities, Container, DownwardFile, EnvVar, Exec, FieldRef, KeyToPath, Port, Probe,
    Projected, Projection, SeccompProfile, SecretVolume, SecurityContext, Volume, VolumeMount,
};
use crate::arguments::{Mode, ServeArgs, secrets_dir};
use crate::choices::Choices;
use crate::contract::{PodIdentity, Source};
use crate::names::{
    ADDRESS_CONTAINER, BINDING_AUDIENCE, BINDING_CA_FILE, BINDING_TOKEN_FILE, EXTRA_CA_VARIABLE,
    HEADER_VARIABLE, IDENTITIES, IDENTITIES_FILE, METRICS_PORT, SECRETS_DIR, SIDECAR,
    SIDECAR_PROGRAM, TOKEN_FILE, VOLUME_DIR,
};
use crate::resolve::Usable;
use crate::settings::{Binding, Egress, Endpoint, Settings};
use crate::text::short_hash;

/// Everything that decides how the sidecar of one pod looks.
pub(crate) struct Sidecar<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) egress: &'a Egress,
    pub(crate) choices: &'a Choices,
    pub(crate) identities: &'a [Usable],
    pub(crate) resources: Option<Value>,
    /// Where the value that App Service clients repeat comes from.
    pub(crate) uid: Value,
    /// Where it serves its metrics to the cluster.
    pub(crate) metrics_port: Option<u16>,
    /// Not bound yet: in native mode the other containers are held.
    pub(crate) hold: bool,
}

/// The highest `failureThreshold` that the API server takes (an int32): the kubelet restarts a
/// sidecar that reaches it.
const NEVER: i32 = i32::MAX;

/// The mode of files: less is unreadable to a process that is not root. What protects them is that no
/// other container mounts them.
const READABLE: i32 = 0o644;

impl Sidecar<'_> {
    /// The sidecar.
    pub(crate) fn container(&self) -> Container<'_> {
        let user = self.settings.sidecar_user;
        let is_native = self.choices.sidecar == Mode::Native;
        let port = |number| Port { name: METRICS_PORT, number, protocol: "TCP" };
        Container {
            env: self.environment(),
            ports: self.metrics_port.map(|number| [port(number)]),
            volume_mounts: self.mounts(),
            restart_policy: is_native.then_some("Always"),
            startup_probe: (is_native && self.hold).then(|| self.probe()),
            ..self.common(
                SIDECAR,
                self.args().to_args(),
                SecurityContext { run_as_user: user, run_as_group: user, ..restricted() },
            )
        }
    }

    /// The init container of link-local mode: it adds the address to the pod's loopback and ends.
    pub(crate) fn address_container(&self) -> Container<'_> {
        let security_context = SecurityContext {
            run_as_non_root: false,
            run_as_user: Some(0),
            // A plain program loses added capabilities at exec unless it runs as root.
            capabilities: Capabilities { drop: ["ALL"], add: Some(["NET_ADMIN"]) },
            ..restricted()
        };
        self.common(ADDRESS_CONTAINER, vec!["address".to_owned()], security_context)
    }

    /// The volumes: one that is projected, and one for each Secret.
    pub(crate) fn volumes(&self) -> Vec<Volume<'_>> {
        let mut volumes = vec![self.projected()];
        volumes.extend(self.secrets().map(|secret| {
            Volume {
                name: secret_volume(secret).into(),
                projected: None,
                // Optional, since a required Secret that vanishes would stop every update of the pod.
                secret: Some(SecretVolume {
                    secret_name: secret,
                    default_mode: READABLE,
                    optional: true,
                }),
            }
        }));
        volumes
    }

    fn args(&self) -> ServeArgs {
        let identities = self.identities.iter();
        ServeArgs {
            dir: VOLUME_DIR.into(),
            port: self.choices.port,
            authority: self.settings.authority.clone(),
            mode: self.choices.sidecar,
            link_local: self.choices.endpoint == Endpoint::LinkLocal,
            secrets_dir: self.secrets().next().map(|_| secrets_dir()),
            authority_for: identities
                .filter_map(|usable| {
                    Some((usable.identity.name.clone(), usable.authority.clone()?))
                })
                .collect(),
            binding: self.binding().map(|binding| binding.proxy.clone()),
            metrics_port: self.metrics_port,
        }
    }

    /// What identity bindings need, if one of the identities is such.
    fn binding(&self) -> Option<&Binding> {
        let mut sources = self.identities.iter().map(|usable| usable.identity.source);
        let has_binding = sources.any(|source| source == Source::Binding);
        self.settings.binding.as_ref().filter(|_| has_binding)
    }

    fn common(
        &self,
        name: &'static str,
        args: Vec<String>,
        security_context: SecurityContext,
    ) -> Container<'_> {
        Container {
            name,
            image: &self.settings.sidecar_image,
            command: [SIDECAR_PROGRAM],
            args,
            resources: self.resources.as_ref(),
            env: Vec::new(),
            ports: None,
            security_context,
            volume_mounts: Vec::new(),
            restart_policy: None,
            startup_probe: None,
        }
    }

    fn environment(&self) -> Vec<EnvVar<'_>> {
        let Egress { https_proxy, no_proxy, extra_ca } = self.egress;
        let mut environment = vec![EnvVar::from(HEADER_VARIABLE, &self.uid)];
        let variables =
            [(EXTRA_CA_VARIABLE, extra_ca), ("HTTPS_PROXY", https_proxy), ("NO_PROXY", no_proxy)];
        for (name, value) in variables {
            environment.extend(value.iter().map(|value| EnvVar::text(name, value)));
        }
        environment
    }

    fn mounts(&self) -> Vec<VolumeMount<'_>> {
        // Over the second path the API server would mount the pod's Kubernetes token.
        let ours = [VOLUME_DIR, "/var/run/secrets/kubernetes.io/serviceaccount"];
        let ours = ours.map(|path| (SIDECAR.into(), path.into()));
        let secrets = self
            .secrets()
            .map(|secret| (secret_volume(secret).into(), format!("{SECRETS_DIR}/{secret}").into()));
        let mount = |(name, mount_path)| VolumeMount { name, mount_path, read_only: true };
        ours.into_iter().chain(secrets).map(mount).collect()
    }

    fn probe(&self) -> Probe {
        // An exec probe, since its output stands in the pod's events, and since a mesh that
        // redirects inbound connections would break any other.
        let port = format!("--port={}", self.choices.port);
        Probe {
            exec: Exec { command: [SIDECAR_PROGRAM.into(), "probe".into(), port.into()] },
            period_seconds: 2,
            failure_threshold: NEVER,
        }
    }

    fn projected(&self) -> Volume<'_> {
        let token = |path, audience| Projection::ServiceAccountToken {
            path,
            audience,
            expiration_seconds: 3600,
        };
        let field_path = format!("metadata.annotations['{IDENTITIES}']");
        let identities = DownwardFile { path: IDENTITIES_FILE, field_ref: FieldRef { field_path } };
        let mut sources = vec![
            Projection::Downward { items: [identities] },
            token(TOKEN_FILE, &self.settings.audience),
        ];
        if let Some(binding) = self.binding() {
            sources.push(token(BINDING_TOKEN_FILE, BINDING_AUDIENCE));
            // Optional, since without it the pod would not start, and its other identities would
            // not be served either.
            sources.push(Projection::ConfigMap {
                name: &binding.ca_config_map,
                items: [KeyToPath { key: "ca.crt", path: BINDING_CA_FILE }],
                optional: true,
            });
        }
        let projected = Projected { default_mode: READABLE, sources };
        Volume { name: SIDECAR.into(), projected: Some(projected), secret: None }
    }

    /// The Secrets of types 1 and 2, each once.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        let names = self.identities.iter().map(|usable| &usable.identity);
        names.enumerate().filter_map(|(at, identity): (usize, &PodIdentity)| {
            let secret = identity.secret.as_deref()?;
            let mut before = self.identities.iter().take(at);
            let is_first = !before.any(|usable| usable.identity.secret.as_deref() == Some(secret));
            is_first.then_some(secret)
        })
    }
}

/// What restricted Pod Security asks of a container.
/// Source: Kubernetes' documentation, "Pod Security Standards".
fn restricted() -> SecurityContext {
    SecurityContext {
        run_as_non_root: true,
        allow_privilege_escalation: false,
        read_only_root_filesystem: true,
        capabilities: Capabilities { drop: ["ALL"], add: None },
        seccomp_profile: SeccompProfile { kind: "RuntimeDefault" },
        run_as_user: None,
        run_as_group: None,
    }
}

/// How the name of a Secret's volume begins.
pub(crate) const SECRET_VOLUME: &str = "imdslet-secret-";

/// The volume of a Secret. A hash, since a volume's name is shorter than a Secret's may be.
pub(crate) fn secret_volume(secret: &str) -> String {
    format!("{SECRET_VOLUME}{}", short_hash(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_of_a_secret_is_named_by_its_hash() {
        // printf %s azure-sp | sha256sum
        assert_eq!(secret_volume("azure-sp"), "imdslet-secret-8132260e");
    }
}
