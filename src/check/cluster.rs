//! Whether a cluster is ready for imdslet.

use imdslet_core::federation::is_out_of_reach;
use serde_json::Value;

use super::facts::{Facts, Issuer, Key, Outside, Seen, text};
use super::metadata;
use super::report::{Check, Group, Verdict};

/// The oldest Kubernetes with sidecars, the first with admission policies, and the first whose sidecars
/// are native by default with imdslet.
const OLDEST: u32 = 29;
const POLICIES: u32 = 30;
const NATIVE: u32 = 32;

const DEFINITIONS: [&str; 4] = [
    "azureassignedidentities.aadpodidentity.k8s.io",
    "azureidentities.aadpodidentity.k8s.io",
    "azureidentitybindings.aadpodidentity.k8s.io",
    "azurepodidentityexceptions.aadpodidentity.k8s.io",
];

pub(super) fn group(facts: &Facts) -> Group {
    let is_installed = !matches!(&facts.webhook, Ok(None));
    let definitions = definitions(&facts.definitions, is_installed);
    let mut checks = vec![version(&facts.version), definitions];
    checks.extend(owners(&facts.definitions));
    checks.push(issuer(&facts.issuer));
    checks.push(old_programs(&facts.workers));
    checks.extend(metadata::check(facts, is_installed));
    // Whoever finds it installed needs no right to install it.
    if !is_installed {
        checks.push(rights(&facts.missing_rights));
    }
    Group { name: "cluster".to_owned(), checks }
}

fn version(seen: &Seen<String>) -> Check {
    let what = ("kubernetes-version", "Kubernetes is new enough");
    let version = match seen {
        Ok(version) => version,
        Err(why) => return Check::unknown(what, why),
    };
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next().and_then(|part| part.parse::<u32>().ok());
    // Some distributions add a sign: `29+`.
    let minor = parts.next().and_then(|part| part.trim_end_matches('+').parse::<u32>().ok());
    match (major, minor) {
        (Some(1), Some(minor)) if minor < OLDEST => Check::found(
            what,
            Verdict::Failed,
            format!("it is {version}, and imdslet needs 1.{OLDEST}"),
            "upgrade the cluster",
        ),
        (Some(1), Some(minor)) if minor < POLICIES => Check::found(
            what,
            Verdict::Warning,
            format!(
                "it is {version}, which has no ValidatingAdmissionPolicy of v1: the three policies of \
                 imdslet, by which its controller alone writes what sidecars alone read, need 1.{POLICIES}"
            ),
            "upgrade the cluster; manifests/install.yaml applies but for these, the chart does not",
        ),
        (Some(1), Some(minor)) if minor < NATIVE => Check::found(
            what,
            Verdict::Warning,
            format!(
                "it is {version}: before 1.{NATIVE} sidecars are plain containers unless you ask, \
                 so init containers get no tokens and Jobs do not end"
            ),
            "set --kubernetes-version (IMDSLET_KUBERNETES_VERSION) to it; where every kubelet is 1.29 \
             or newer, set --sidecar native",
        ),
        (Some(_), Some(_)) => Check::passed(what.0, format!("Kubernetes {version} is new enough")),
        _ => Check::unknown(what, &format!("its version is `{version}`, which is none")),
    }
}

fn definitions(seen: &Seen<Vec<Value>>, is_installed: bool) -> Check {
    let what =
        ("custom-resources", "the custom resources are there and keep keys in any letter case");
    let found = match seen {
        Ok(found) => found,
        Err(why) => return Check::unknown(what, why),
    };
    let name = |definition: &Value| text(definition, "/metadata/name").to_owned();
    let names: Vec<_> = found.iter().map(name).collect();
    let missing: Vec<_> =
        DEFINITIONS.into_iter().filter(|one| !names.iter().any(|name| name == one)).collect();
    if !missing.is_empty() {
        // The installation brings them; one that is there is not to be applied over for them.
        let (verdict, remedy) = if is_installed {
            (Verdict::Failed, "kubectl apply -f manifests/crds.yaml")
        } else {
            let remedy =
                "kubectl apply -f manifests/crds.yaml; manifests/install.yaml brings them too";
            (Verdict::Warning, remedy)
        };
        return Check::found(what, verdict, format!("not there: {}", missing.join(", ")), remedy);
    }
    let prunes = |definition: &&Value| {
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array);
        let keeps = |version: &Value| {
            let spec =
                "/schema/openAPIV3Schema/properties/spec/x-kubernetes-preserve-unknown-fields";
            version.pointer(spec) == Some(&Value::Bool(true))
        };
        // Of these two the guides have keys that no schema knows.
        let name = name(definition);
        let is_read =
            name.starts_with("azureidentities.") || name.starts_with("azureidentitybindings.");
        is_read && !versions.is_some_and(|versions| versions.iter().all(keeps))
    };
    let pruning: Vec<_> = found.iter().filter(prunes).map(name).collect();
    if pruning.is_empty() {
        return Check::passed(what.0, what.1);
    }
    Check::found(
        what,
        Verdict::Warning,
        format!(
            "{} of aad-pod-identity drop keys such as `ResourceID` and `Selector`, as old guides \
             write them",
            pruning.join(" and ")
        ),
        "kubectl apply --server-side --force-conflicts -f manifests/crds.yaml: no object is lost",
    )
}

/// Who would take the custom resources away, and every identity with them.
fn owners(seen: &Seen<Vec<Value>>) -> Option<Check> {
    let what = ("custom-resources-owner", "nobody else would take the custom resources away");
    // What cannot be seen is said above.
    let definitions = seen.as_ref().ok().filter(|definitions| !definitions.is_empty())?;
    let owner = definitions.iter().find_map(owner);
    Some(match owner {
        None => Check::passed(what.0, what.1),
        Some(owner) => Check::found(
            what,
            Verdict::Warning,
            format!(
                "{owner} has brought them, and whoever removes it removes them, and every \
                 AzureIdentity and binding with them"
            ),
            "before that, kubectl get azureidentity,azureidentitybinding -A -o yaml > backup.yaml, and \
             kubectl annotate crd NAME helm.sh/resource-policy=keep each; imdslet migrate -o steps \
             has the order",
        ),
    })
}

/// Who has brought an object and does not keep it: a release of Helm's, or the manager of add-ons.
fn owner(definition: &Value) -> Option<String> {
    let annotation = |key: &str| text(definition, &format!("/metadata/annotations/{key}"));
    let release = annotation("meta.helm.sh~1release-name");
    if !release.is_empty() && annotation("helm.sh~1resource-policy") != "keep" {
        let namespace = annotation("meta.helm.sh~1release-namespace");
        return Some(format!("Helm's release {release} of namespace {namespace}"));
    }
    let mode = text(definition, "/metadata/labels/addonmanager.kubernetes.io~1mode");
    (mode == "Reconcile")
        .then(|| "an add-on of the cluster (addonmanager.kubernetes.io/mode)".to_owned())
}

fn issuer(seen: &Seen<Issuer>) -> Check {
    let what = ("issuer", "Entra ID can read the keys of the cluster's service account tokens");
    let Issuer { url, keys, outside } = match seen {
        Ok(issuer) => issuer,
        Err(why) => return Check::unknown(what, why),
    };
    let remedy = "az aks update --enable-oidc-issuer; elsewhere set --service-account-issuer to a \
                  public https URL and publish /.well-known/openid-configuration and the keys there";
    let failed = |message: String| Check::found(what, Verdict::Failed, message, remedy);
    if is_out_of_reach(url) {
        return failed(format!(
            "the issuer is {url}, which nobody outside of the cluster can read"
        ));
    }
    match outside {
        _ if keys.is_empty() => Check::unknown(what, "the API server shows no keys to compare"),
        Outside::Keys(published) => match unpublished(url, keys, published) {
            None => Check::passed(what.0, format!("the keys of {url} are published there")),
            Some(message) => Check::found(
                what,
                Verdict::Failed,
                message,
                "publish the answer of `kubectl get --raw /openid/v1/jwks` there, or see whose issuer \
                 it is",
            ),
        },
        Outside::Wrong(why) => {
            failed(format!("what stands at the issuer {url} is of no use: {why}"))
        }
        Outside::Unreachable(why) => Check::found(
            what,
            Verdict::Warning,
            format!("from here nothing is read of the issuer {url}: {why}"),
            format!(
                "where Entra ID cannot read it either, no federated credential works: {remedy}"
            ),
        ),
    }
}

/// What is not as it should be with the keys at an issuer's URL.
fn unpublished(url: &str, keys: &[Key], published: &[Key]) -> Option<String> {
    let of = |key: &Key| published.iter().find(|other| other.id == key.id);
    let ids = |keys: Vec<&Key>| keys.iter().map(|key| &*key.id).collect::<Vec<_>>().join(", ");
    let missing: Vec<_> = keys.iter().filter(|key| of(key).is_none()).collect();
    if !missing.is_empty() {
        return Some(format!("{url} does not show the cluster's key {}", ids(missing)));
    }
    // The ids of two clusters may be the same by hand, and then no signature is ever right.
    let other: Vec<_> = keys.iter().filter(|key| of(key).is_some_and(|one| one != *key)).collect();
    (!other.is_empty())
        .then(|| format!("under the id {} {url} shows another key than the cluster's", ids(other)))
}

fn old_programs(seen: &Seen<Vec<Value>>) -> Check {
    let what = ("aad-pod-identity", "NMI and MIC are gone");
    let workers = match seen {
        Ok(workers) => workers,
        Err(why) => return Check::unknown(what, why),
    };
    let is_old = |worker: &&Value| {
        let containers = worker.pointer("/spec/template/spec/containers").and_then(Value::as_array);
        containers.into_iter().flatten().any(|container| {
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            // A registry may have a port, so only the last part has a tag.
            let last = image.rsplit('/').next().unwrap_or_default();
            matches!(last.split(['@', ':']).next(), Some("nmi" | "mic"))
        })
    };
    let old: Vec<_> = workers
        .iter()
        .filter(is_old)
        .map(|one| {
            format!(
                "{}/{}/{}",
                text(one, "/kind"),
                text(one, "/metadata/namespace"),
                text(one, "/metadata/name")
            )
        })
        .collect();
    if old.is_empty() {
        return Check::passed(what.0, "NMI and MIC of aad-pod-identity do not run");
    }
    Check::found(
        what,
        Verdict::Warning,
        format!(
            "still there: {}. On its nodes NMI takes what pods send to 169.254.169.254; pods with a \
             sidecar of imdslet ask that, and all others go on as they are",
            old.join(", ")
        ),
        "they may stay while namespaces are moved one by one: imdslet migrate -o steps prints the order",
    )
}

fn rights(seen: &Seen<Vec<String>>) -> Check {
    let what = ("rights-to-install", "you may install imdslet");
    match seen {
        Err(why) => Check::unknown(what, why),
        Ok(missing) if missing.is_empty() => Check::passed(what.0, what.1),
        Ok(missing) => Check::found(
            what,
            Verdict::Failed,
            format!("you may not {}", missing.join("; not ")),
            "install it as an administrator of the cluster",
        ),
    }
}
