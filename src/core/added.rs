//! What is added to a pod, with the fields that are ever set and no others. Source of the names:
//! Kubernetes' API reference, "Pod v1 core".

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

/// A container.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container<'a> {
    pub(crate) name: &'static str,
    pub(crate) image: &'a str,
    pub(crate) command: [&'static str; 1],
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<&'a Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) env: Vec<EnvVar<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<[Port; 1]>,
    pub(crate) security_context: SecurityContext,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volume_mounts: Vec<VolumeMount<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) startup_probe: Option<Probe>,
}

/// A variable of a container's environment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvVar<'a> {
    pub(crate) name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value_from: Option<&'a Value>,
}

impl<'a> EnvVar<'a> {
    pub(crate) fn text(name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        Self { name, value: Some(value.into()), value_from: None }
    }

    pub(crate) fn from(name: &'static str, value_from: &'a Value) -> Self {
        Self { name, value: None, value_from: Some(value_from) }
    }
}

#[derive(Serialize)]
pub(crate) struct Port {
    pub(crate) name: &'static str,
    #[serde(rename = "containerPort")]
    pub(crate) number: u16,
    pub(crate) protocol: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecurityContext {
    pub(crate) run_as_non_root: bool,
    pub(crate) allow_privilege_escalation: bool,
    pub(crate) read_only_root_filesystem: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) seccomp_profile: SeccompProfile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_as_user: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_as_group: Option<u32>,
}

#[derive(Serialize)]
pub(crate) struct Capabilities {
    pub(crate) drop: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) add: Option<[&'static str; 1]>,
}

#[derive(Serialize)]
pub(crate) struct SeccompProfile {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeMount<'a> {
    pub(crate) name: Cow<'static, str>,
    pub(crate) mount_path: Cow<'a, str>,
    pub(crate) read_only: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    pub(crate) exec: Exec,
    pub(crate) period_seconds: i32,
    pub(crate) failure_threshold: i32,
}

#[derive(Serialize)]
pub(crate) struct Exec {
    pub(crate) command: [Cow<'static, str>; 3],
}

/// A volume.
#[derive(Serialize)]
pub(crate) struct Volume<'a> {
    pub(crate) name: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) projected: Option<Projected<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<SecretVolume<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Projected<'a> {
    pub(crate) default_mode: i32,
    pub(crate) sources: Vec<Projection<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Projection<'a> {
    #[serde(rename = "downwardAPI")]
    Downward {
        items: [DownwardFile; 1],
    },
    #[serde(rename_all = "camelCase")]
    ServiceAccountToken {
        path: &'static str,
        audience: &'a str,
        expiration_seconds: u32,
    },
    ConfigMap {
        name: &'a str,
        items: [KeyToPath; 1],
        optional: bool,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DownwardFile {
    pub(crate) path: &'static str,
    pub(crate) field_ref: FieldRef,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FieldRef {
    pub(crate) field_path: String,
}

#[derive(Serialize)]
pub(crate) struct KeyToPath {
    pub(crate) key: &'static str,
    pub(crate) path: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretVolume<'a> {
    pub(crate) secret_name: &'a str,
    pub(crate) default_mode: i32,
    pub(crate) optional: bool,
}
