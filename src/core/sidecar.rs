//! The containers and volumes that a pod gets.

use serde_json::{Map, Value, json};

use crate::choices::Choices;
use crate::contract::{PodIdentity, Source};
use crate::names::{
    ADDRESS_CONTAINER, BINDING_AUDIENCE, BINDING_CA_FILE, BINDING_TOKEN_FILE, EXTRA_CA_VARIABLE,
    HEADER_VARIABLE, IDENTITIES, IDENTITIES_FILE, METRICS_PORT, SECRETS_DIR, SIDECAR,
    SIDECAR_PROGRAM, TOKEN_FILE, VOLUME_DIR,
};
use crate::resolve::Usable;
use crate::serve::{Mode, ServeArgs, secrets_dir};
use crate::settings::{Binding, Egress, Endpoint, Settings};
use crate::text::short_hash;

/// Everything that decides how the sidecar of one pod looks.
pub(crate) struct Sidecar<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) egress: &'a Egress,
    pub(crate) choices: &'a Choices,
    pub(crate) identities: &'a [Usable],
    pub(crate) resources: Option<Value>,
    /// Where it serves its metrics to the cluster.
    pub(crate) metrics_port: Option<u16>,
    /// Not bound yet: in native mode the other containers are held.
    pub(crate) hold: bool,
}

/// The highest `failureThreshold` that the API server takes (an int32): the kubelet restarts a
/// sidecar that reaches it.
const NEVER: i32 = i32::MAX;

impl Sidecar<'_> {
    /// The sidecar.
    pub(crate) fn container(&self) -> Value {
        let mut container = self.common(SIDECAR, &self.args().to_args());
        container.insert("env".to_owned(), self.environment());
        if let Some(port) = self.metrics_port {
            let port = json!({"name": METRICS_PORT, "containerPort": port, "protocol": "TCP"});
            container.insert("ports".to_owned(), json!([port]));
        }
        let mut security = restricted();
        if let Some(user) = self.settings.sidecar_user {
            security.insert("runAsUser".to_owned(), json!(user));
            security.insert("runAsGroup".to_owned(), json!(user));
        }
        container.insert("securityContext".to_owned(), Value::Object(security));
        container.insert("volumeMounts".to_owned(), self.mounts());
        if self.choices.sidecar == Mode::Native {
            container.insert("restartPolicy".to_owned(), json!("Always"));
            if self.hold {
                container.insert("startupProbe".to_owned(), self.probe());
            }
        }
        Value::Object(container)
    }

    /// The init container of link-local mode: it adds the address to the pod's loopback and ends.
    pub(crate) fn address_container(&self) -> Value {
        let mut container = self.common(ADDRESS_CONTAINER, &["address".to_owned()]);
        let mut security = restricted();
        security.insert("runAsNonRoot".to_owned(), json!(false));
        security.insert("runAsUser".to_owned(), json!(0));
        // A plain program loses added capabilities at exec unless it runs as root.
        let capabilities = json!({"drop": ["ALL"], "add": ["NET_ADMIN"]});
        security.insert("capabilities".to_owned(), capabilities);
        container.insert("securityContext".to_owned(), Value::Object(security));
        Value::Object(container)
    }

    /// The volumes: one that is projected, and one for each Secret.
    pub(crate) fn volumes(&self) -> Vec<Value> {
        let mut volumes = vec![self.projected()];
        volumes.extend(self.secrets().map(|secret| {
            // Optional, since a required Secret that vanishes would stop every update of the pod.
            json!({
                "name": secret_volume(secret),
                "secret": {"secretName": secret, "defaultMode": 0o644, "optional": true},
            })
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

    fn common(&self, name: &str, args: &[String]) -> Map<String, Value> {
        let mut container = Map::new();
        container.insert("name".to_owned(), json!(name));
        container.insert("image".to_owned(), json!(self.settings.sidecar_image));
        container.insert("command".to_owned(), json!([SIDECAR_PROGRAM]));
        container.insert("args".to_owned(), json!(args));
        if let Some(resources) = &self.resources {
            container.insert("resources".to_owned(), resources.clone());
        }
        container
    }

    fn environment(&self) -> Value {
        let uid = json!({"fieldRef": {"fieldPath": "metadata.uid"}});
        let mut environment = vec![json!({"name": HEADER_VARIABLE, "valueFrom": uid})];
        let Egress { https_proxy, no_proxy, extra_ca } = self.egress;
        let variables =
            [(EXTRA_CA_VARIABLE, extra_ca), ("HTTPS_PROXY", https_proxy), ("NO_PROXY", no_proxy)];
        for (name, value) in variables {
            environment.extend(value.iter().map(|value| json!({"name": name, "value": value})));
        }
        Value::Array(environment)
    }

    fn mounts(&self) -> Value {
        let mount =
            |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
        // Over the second path the API server would mount the pod's Kubernetes token.
        let ours = [VOLUME_DIR, "/var/run/secrets/kubernetes.io/serviceaccount"]
            .map(|path| mount(SIDECAR, path));
        let secrets = self
            .secrets()
            .map(|secret| mount(&secret_volume(secret), &format!("{SECRETS_DIR}/{secret}")));
        ours.into_iter().chain(secrets).collect()
    }

    fn probe(&self) -> Value {
        // An exec probe, since its output stands in the pod's events, and since a mesh that
        // redirects inbound connections would break any other.
        let port = format!("--port={}", self.choices.port);
        json!({
            "exec": {"command": [SIDECAR_PROGRAM, "probe", port]},
            "periodSeconds": 2,
            "failureThreshold": NEVER,
        })
    }

    fn projected(&self) -> Value {
        let token = |path: &str, audience: &str| {
            json!({"serviceAccountToken": {
                "path": path, "audience": audience, "expirationSeconds": 3600,
            }})
        };
        let annotation = format!("metadata.annotations['{IDENTITIES}']");
        let mut sources = vec![
            json!({"downwardAPI": {"items": [
                {"path": IDENTITIES_FILE, "fieldRef": {"fieldPath": annotation}},
            ]}}),
            token(TOKEN_FILE, &self.settings.audience),
        ];
        if let Some(binding) = self.binding() {
            sources.push(token(BINDING_TOKEN_FILE, BINDING_AUDIENCE));
            // Optional, since without it the pod would not start, and its other identities would
            // not be served either.
            sources.push(json!({"configMap": {
                "name": binding.ca_config_map,
                "items": [{"key": "ca.crt", "path": BINDING_CA_FILE}],
                "optional": true,
            }}));
        }
        // 0644: less is unreadable to a process that is not root. What protects the files is that
        // no other container mounts them.
        json!({"name": SIDECAR, "projected": {"defaultMode": 0o644, "sources": sources}})
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
fn restricted() -> Map<String, Value> {
    let mut security = Map::new();
    security.insert("runAsNonRoot".to_owned(), json!(true));
    security.insert("allowPrivilegeEscalation".to_owned(), json!(false));
    security.insert("readOnlyRootFilesystem".to_owned(), json!(true));
    security.insert("capabilities".to_owned(), json!({"drop": ["ALL"]}));
    security.insert("seccompProfile".to_owned(), json!({"type": "RuntimeDefault"}));
    security
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
