//! What holds for every pod: what the operator has set, in the cluster that this is.

use imdslet_core::settings::Settings;
use kube::Client;
use kube::runtime::watcher::DefaultBackoff;
use tokio::time::{sleep, timeout};

use crate::config::{Config, ConfigError, VERSION_DEADLINE};
use crate::problem::{Ask, Problem};
use crate::readiness::Readiness;

/// Why there are no settings yet, as readiness shows it.
const PART: &str = "Kubernetes version";

/// The settings where no cluster is asked.
///
/// # Errors
///
/// [`ConfigError`], if they cannot be used.
pub fn without_cluster(config: &Config) -> Result<Settings, ConfigError> {
    config.settings(None).inspect(warn_of)
}

/// The settings in a cluster. It is asked for its version where that matters.
///
/// # Errors
///
/// [`ConfigError`], if they cannot be used.
pub async fn of_cluster(
    config: &Config,
    client: &Client,
    readiness: &Readiness,
) -> Result<Settings, ConfigError> {
    let version = if config.depends_on_version() { version(client, readiness).await } else { None };
    let settings = config.settings(version.as_deref()).or_else(|error| {
        tracing::warn!(
            %error, reason = "VersionUnknown",
            "taken for the newest; --kubernetes-version says otherwise"
        );
        config.settings(None)
    });
    settings.inspect(warn_of)
}

/// What the API server says of its version, asked for as long as it takes: it could not ask about
/// pods either. `None` where it does not tell this account.
async fn version(client: &Client, readiness: &Readiness) -> Option<String> {
    const ASK: Ask = Ask { verb: "get", group: "", resource: "/version", name: None };
    let mut backoff = DefaultBackoff::default();
    let version = loop {
        let problem = match timeout(VERSION_DEADLINE, client.apiserver_version()).await {
            Ok(Ok(version)) => {
                let version = format!("{}.{}", version.major, version.minor);
                tracing::info!(version, "Kubernetes");
                break Some(version);
            }
            Ok(Err(error)) => Problem::of(ASK, &error),
            Err(_) => Problem::late(VERSION_DEADLINE),
        };
        if let Problem::Forbidden { .. } | Problem::Unauthorized(_) = problem {
            tracing::warn!(
                %problem, reason = "VersionUnknown",
                "taken for the newest; --kubernetes-version says otherwise"
            );
            break None;
        }
        if readiness.set(PART, true, &problem.to_string()) {
            tracing::warn!(%problem, reason = problem.reason(), "cannot ask for the version");
        }
        sleep(backoff.next().unwrap_or(VERSION_DEADLINE)).await;
    };
    readiness.clear(PART);
    version
}

fn warn_of(settings: &Settings) {
    if settings.tenant_id.is_none() {
        tracing::warn!(
            reason = "NoTenant",
            "no tenant is set (--tenant-id, AZURE_TENANT_ID): an AzureIdentity that names none \
             (imdslet.dev/tenant-id, spec.tenantID) cannot be used"
        );
    }
}
