#!/usr/bin/env python3
"""Renders the chart by Helm, and looks at what comes out. The last line is the sum."""

import pathlib
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "manifests/chart"
HELM = sys.argv[1]
# What Helm needs, and kubectl does not.
OWN = {"helm.sh/resource-policy", "checksum/settings", "velero.io/exclude-from-backup"}
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KINDS = "--api-versions=aadpodidentity.k8s.io/v1/AzureIdentity"
IDENTITY = {"clientID": "c", "resourceID": "/r", "binding": {"selector": "db"}}


def helm(values, *flags):
    command = [HELM, "template", "imdslet", CHART, "--namespace=imdslet-system", "--kube-version=1.34.0", "--values=-", *flags]
    return subprocess.run([str(part) for part in command], input=yaml.safe_dump(values), text=True, capture_output=True)


def rendered(values, *flags):
    ended = helm(values, *flags)
    assert ended.returncode == 0, ended.stderr
    return by_name(ended.stdout)


def by_name(text):
    things = [thing for thing in yaml.safe_load_all(text) if thing]
    names = {(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]): thing for thing in things}
    assert len(names) == len(things), "two objects have one name"
    return names


def one(things, kind, name):
    return next(thing for (k, _, n), thing in things.items() if (k, n) == (kind, name))


def without_own(value):
    if isinstance(value, list):
        return [without_own(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: without_own(item) for key, item in value.items() if key not in OWN}
    return {key: item for key, item in kept.items() if not (key == "annotations" and item == {})}


def its_defaults_are_install_yaml():
    chart = rendered({"namespace": {"create": True}})
    install = by_name((ROOT / "manifests/install.yaml").read_text())
    assert chart.keys() == install.keys(), chart.keys() ^ install.keys()
    for name, thing in install.items():
        assert without_own(chart[name]) == thing, f"{name} differs"


def its_copies_are_those_of_manifests():
    for name in ("crds.yaml", "csi.yaml"):
        assert (CHART / "files" / name).read_bytes() == (ROOT / "manifests" / name).read_bytes(), f"copy manifests/{name} again"


def its_page_says_what_values_yaml_says():
    subprocess.run([ROOT / "manifests/chart-docs", "--check"], check=True)


def helm_lints_it():
    subprocess.run([HELM, "lint", "--quiet", "--strict", CHART], check=True, capture_output=True)


def what_is_kept_is_never_deleted():
    for (kind, _, _), thing in rendered({"namespace": {"create": True}}).items():
        keeps = thing["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        assert keeps == (kind in ("CustomResourceDefinition", "Namespace")), thing["metadata"]["name"]


def a_large_uid_stays_a_number():
    # As OpenShift has them; a values file makes a floating-point number of it.
    uid = 1000650000
    things = rendered({"runAsUser": uid, "sidecar": {"runAsUser": uid}, "webhook": {"replicas": 1}})
    assert one(things, "ConfigMap", "imdslet-config")["data"]["IMDSLET_SIDECAR_RUN_AS_USER"] == str(uid)
    deployment = one(things, "Deployment", "imdslet-webhook")
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == uid, deployment
    budgets = [name for kind, _, name in things if kind == "PodDisruptionBudget"]
    assert "imdslet-webhook" not in budgets, "with one replica no node could be drained"


def settings_arrive():
    values = {
        "tenantId": "t", "cloud": "usgov", "scope": "namespaced", "whenUnbound": "deny", "endpoint": "link-local", "allowManaged": True,
        "allowAuthorities": ["https://a", "https://b"], "bindingProxy": {"url": "https://p", "sni": "s"}, "extraCa": {"pem": PEM},
        "sidecar": {"image": {"digest": "sha256:" + "a" * 64}, "runAsUser": "none", "port": 3000, "metricsPort": 9000, "httpsProxy": "http://p:1"},
    }
    things = rendered(values)
    data = one(things, "ConfigMap", "imdslet-config")["data"]
    assert all(isinstance(value, str) for value in data.values()), data
    expected = {
        "AZURE_TENANT_ID": "t", "IMDSLET_CLOUD": "usgov", "IMDSLET_SCOPE": "namespaced", "IMDSLET_WHEN_UNBOUND": "deny",
        "IMDSLET_ENDPOINT": "link-local", "IMDSLET_ALLOW_MANAGED": "true", "IMDSLET_ALLOW_AUTHORITY": "https://a,https://b",
        "IMDSLET_BINDING_PROXY": "https://p", "IMDSLET_BINDING_SNI": "s", "IMDSLET_EXTRA_CA": "/etc/imdslet/extra-ca/ca.crt",
        "IMDSLET_SIDECAR_IMAGE": "imdslet-sidecar@sha256:" + "a" * 64, "IMDSLET_SIDECAR_RUN_AS_USER": "none", "IMDSLET_PORT": "3000",
        "IMDSLET_SIDECAR_METRICS_PORT": "9000", "IMDSLET_HTTPS_PROXY": "http://p:1",
    }
    assert expected.items() <= data.items(), data
    assert one(things, "ConfigMap", "imdslet-extra-ca")["data"]["ca.crt"] == PEM


def another_namespace_is_everywhere():
    ended = helm({"csi": {"enabled": True}}, "--namespace=other")
    things = by_name(ended.stdout)
    for (kind, namespace, name), thing in things.items():
        assert namespace in (None, "other"), name
        assert "imdslet-system" not in yaml.safe_dump(thing), f"{kind} {name}"


def a_certificate_of_somebody_else_takes_the_rights_away():
    for certificates in ({"source": "cert-manager"}, {"source": "files", "secret": "s", "ca": PEM}):
        things = rendered({"certificates": certificates})
        assert not [n for k, _, n in things if n == "imdslet-webhook" and "Role" in k], certificates
        pod = one(things, "Deployment", "imdslet-webhook")["spec"]["template"]["spec"]
        assert {"name": "IMDSLET_TLS_DIR", "value": "/etc/imdslet/tls"} in pod["containers"][0]["env"]
        hook = one(things, "MutatingWebhookConfiguration", "imdslet")
        injected = hook["metadata"].get("annotations", {}).get("cert-manager.io/inject-ca-from")
        bundles = {"caBundle" in entry["clientConfig"] for entry in hook["webhooks"]}
        assert (injected, bundles) == ((None, {True}) if "ca" in certificates else ("imdslet-system/imdslet-webhook", {False}))


def pods_are_as_they_are_wanted():
    wanted = {"replicas": 3, "minAvailable": 0, "hostNetwork": True, "port": 9443, "healthPort": 9080, "priorityClassName": "", "spread": [],
              "tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}, "podLabels": {"l": "1"}, "podAnnotations": {"n": "1"},
              "failurePolicy": "Ignore", "timeoutSeconds": 9}
    things = rendered({"webhook": wanted, "runAsUser": 0, "imagePullSecrets": [{"name": "r"}], "commonLabels": {"team": "x"},
                       "disableAksEnforcer": True, "namespaceSelector": [{"key": "env", "operator": "In", "values": ["prod"]}]})
    deployment = one(things, "Deployment", "imdslet-webhook")["spec"]
    pod = deployment["template"]["spec"]
    assert deployment["replicas"] == 3 and pod["hostNetwork"] and pod["nodeSelector"] == {"a": "b"}
    assert not {"priorityClassName", "topologySpreadConstraints"} & pod.keys()
    assert "runAsUser" not in pod["securityContext"] and pod["securityContext"]["runAsNonRoot"]
    assert [port["containerPort"] for port in pod["containers"][0]["ports"]] == [9443, 9080]
    assert {"l": "1", "team": "x"}.items() <= deployment["template"]["metadata"]["labels"].items()
    assert deployment["selector"]["matchLabels"] == {"app.kubernetes.io/name": "imdslet-webhook"}
    assert ("PodDisruptionBudget", "imdslet-system", "imdslet-webhook") not in things
    hook = one(things, "MutatingWebhookConfiguration", "imdslet")
    assert [entry["failurePolicy"] for entry in hook["webhooks"]] == ["Ignore"] * 3
    assert {entry["timeoutSeconds"] for entry in hook["webhooks"]} == {9}
    assert all(entry["namespaceSelector"]["matchExpressions"][1]["key"] == "env" for entry in hook["webhooks"])
    assert hook["metadata"]["annotations"] == {"admissions.enforcer/disabled": "true"}


def what_is_optional_comes_when_it_is_asked_for():
    for values, kinds in (
        ({"metrics": {"serviceMonitor": True}}, ["Service", "ServiceMonitor"]),
        ({"networkPolicies": {"create": True, "denyNodeIdentity": ["a", "b"]}}, ["NetworkPolicy"] * 3),
        ({"userRoles": {"create": True}}, ["ClusterRole"] * 2),
        ({"csi": {"enabled": True}}, ["ClusterRole"] * 2 + ["ClusterRoleBinding"] * 2 + ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]),
    ):
        more = sorted(kind for kind, _, _ in rendered(values).keys() - rendered({}).keys())
        assert more == kinds, more


def identities_are_rendered_as_the_old_chart_rendered_them():
    principal = {"clientID": "p", "type": 1, "tenantID": "t", "clientPassword": '{"name":"s","namespace":"web"}', "namespace": "web"}
    things = rendered({"azureIdentities": {"db": IDENTITY, "sp": principal}}, KINDS)
    assert one(things, "AzureIdentity", "db")["spec"] == {"type": 0, "clientID": "c", "resourceID": "/r"}
    assert one(things, "AzureIdentityBinding", "db-binding")["spec"] == {"azureIdentity": "db", "selector": "db"}
    assert one(things, "AzureIdentity", "sp")["spec"]["clientPassword"] == {"name": "s", "namespace": "web"}


def a_wrong_value_is_refused_by_its_name():
    for values, words in (
        ({"cloud": "mars"}, ["cloud", "usgov"]),
        ({"tenantID": "t"}, ["tenantID"]),
        ({"webhook": {"timeoutSeconds": 4}}, ["timeoutSeconds"]),
        ({"webhook": {"replica": 1}}, ["webhook", "replica"]),
        ({"image": {"digest": "abc"}}, ["digest"]),
        ({"authority": "http://login"}, ["authority"]),
        ({"certificates": {"source": "files"}}, ["certificates.", "is empty"]),
        ({"extraCa": {"pem": PEM, "configMap": "c"}}, ["leave one of them out"]),
        ({"azureIdentities": {"db": {"clientID": "c", "resourceId": "/r"}}}, ["db", "resourceId"]),
    ):
        ended = helm(values, KINDS)
        assert ended.returncode and all(word in ended.stderr for word in words), f"{values}: {ended.stderr}"
    ended = helm({"azureIdentities": {"db": {"clientID": "c"}}}, KINDS)
    assert "azureIdentities.db.resourceID is missing" in ended.stderr, ended.stderr
    assert "install without azureIdentities first" in helm({"azureIdentities": {"db": IDENTITY}}).stderr


TESTS = [
    its_defaults_are_install_yaml, its_copies_are_those_of_manifests, its_page_says_what_values_yaml_says, helm_lints_it,
    what_is_kept_is_never_deleted, a_large_uid_stays_a_number, settings_arrive, another_namespace_is_everywhere,
    a_certificate_of_somebody_else_takes_the_rights_away, pods_are_as_they_are_wanted, what_is_optional_comes_when_it_is_asked_for,
    identities_are_rendered_as_the_old_chart_rendered_them, a_wrong_value_is_refused_by_its_name,
]
failed = 0
for test in TESTS:
    try:
        test()
        print(f"ok     {test.__name__.replace('_', ' ')}")
    except Exception as error:  # A test may fail in any way; the next one is to run.
        failed += 1
        print(f"FAILED {test.__name__.replace('_', ' ')}: {type(error).__name__}: {error}")
print(f"{len(TESTS) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
