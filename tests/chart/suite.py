#!/usr/bin/env python3
"""Renders the chart by Helm, and looks at what comes out. The last line is the sum."""

import json
import pathlib
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "manifests/chart"
HELM = sys.argv[1]
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
KINDS = "--api-versions=aadpodidentity.k8s.io/v1/AzureIdentity"
IDENTITY = {"clientID": "c", "resourceID": "/r", "binding": {"selector": "db"}}
MONITORING = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
# Another value than the default, by the value's whole name or the last part of it; of a number or a switch it goes without saying.
SAMPLES = {
    "tenantId": "t.example", "cloud": "usgov", "authority": "https://a", "audience": "a", "allowAuthorities": ["https://a"], "scope": "namespaced",
    "whenUnbound": "deny", "endpoint": "link-local", "logLevel": "debug", "url": "https://p", "sni": "s", "caConfigMap": "c",
    "repository": "r", "tag": "t", "digest": "sha256:" + "a" * 64, "pullPolicy": "Always", "imagePullSecrets": [{"name": "r"}],
    "sidecar.mode": "container", "sidecar.runAsUser": 5, "sidecar.port": 3000, "sidecar.metricsPort": 9000,
    "sidecar.resources": {"limits": {"memory": "32Mi"}}, "httpsProxy": "http://p", "noProxy": ".svc", "namespaces": {"web": {"noProxy": "*"}},
    "pem": PEM, "configMap": "c", "failurePolicy": "Ignore", "priorityClassName": "", "resources": {"limits": {"memory": "1Gi"}},
    "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}}, "spread": [],
    "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"}, "certificates.source": "cert-manager", "minTlsVersion": "1.2",
    "issuer": {"name": "i"}, "secret": "other", "ca": PEM + PEM, "namespaceSelector": [{"key": "a", "operator": "Exists"}],
    "podSecurity": "baseline", "metrics.labels": {"a": "b"}, "interval": "1m", "denyNodeIdentity": ["web"],
    "networkPolicies.metricsFrom": [{"podSelector": {}}], "sidecarMetrics": ["web"], "azureIdentities": {"db": IDENTITY},
    "commonLabels": {"a": "b"}, "commonAnnotations": {"a": "b"},
}
# The values of chart 4.1.18 of aad-pod-identity (charts/aad-pod-identity/values.yaml at e4e7eab2).
OLD = {
    "": "nameOverride fullnameOverride imagePullSecrets forceNamespaced installMICException operationMode customUserAgent azureIdentities",
    "image": "repository imagePullPolicy",
    "adminsecret": "cloud subscriptionID resourceGroup vmType tenantID clientID clientSecret useMSI userAssignedMSIClientID",
    "rbac": "enabled allowAccessToSecrets pspEnabled createUserFacingClusterRoles",
    "mic": "image tag priorityClassName logVerbosity loggingFormat replicas resources podAnnotations podLabels nodeSelector tolerations affinity "
           "topologySpreadConstraints podDisruptionBudget leaderElection probePort syncRetryDuration immutableUserMSIs createDeleteBatch clientQps "
           "prometheusPort cloudConfig customCloud.enabled customCloud.configPath updateUserMSIMaxRetry updateUserMSIRetryInterval "
           "identityAssignmentReconcileInterval",
    "nmi": "image tag priorityClassName logVerbosity loggingFormat resources updateStrategy podAnnotations podLabels nodeSelector tolerations "
           "affinity ipTableUpdateTimeIntervalInSeconds micNamespace probePort retryAttemptsForCreated retryAttemptsForAssigned "
           "findIdentityRetryIntervalInSeconds enableScaleFeatures prometheusPort blockInstanceMetadata metadataHeaderRequired "
           "allowNetworkPluginKubenet kubeletConfig setRetryAfterHeader enableConntrackDeletion",
}
FILES = {"certificates": {"source": "files", "secret": "s", "ca": PEM}}
# What a value needs beside it, to count.
NEEDS = {
    "certificates.issuer": {"certificates": {"source": "cert-manager"}}, "certificates.secret": FILES, "certificates.ca": FILES,
    "namespace.podSecurity": {"namespace": {"create": True}}, "metrics.labels": {"metrics": {"serviceMonitor": True}},
    "metrics.interval": {"metrics": {"serviceMonitor": True}}, "networkPolicies.metricsFrom": {"networkPolicies": {"create": True}},
    "networkPolicies.sidecarMetrics": {"networkPolicies": {"create": True, "metricsFrom": MONITORING}, "sidecar": {"metricsPort": 9464}},
}


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


def install_yaml_and_the_page_and_the_copies_are_made_of_it():
    ended = subprocess.run([ROOT / "manifests/sync", "--check"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # What is read there is what Helm installs.
    assert by_name((ROOT / "manifests/install.yaml").read_text()) == rendered({"namespace": {"create": True}})


def the_page_says_what_became_of_each_value_of_the_old_chart():
    page = (ROOT / "docs/chart.md").read_text()
    table = page.partition("## From the chart of aad-pod-identity")[2].partition("## Values")[0]
    for group, names in OLD.items():
        for name in names.split():
            # In full, or by its last part in a list of its group.
            whole = f"{group}.{name}".lstrip(".")
            listed = [line for line in table.splitlines() if f"`.{name}`" in line and f"`{group}." in line]
            assert f"`{whole}`" in table or f"`{whole}:" in table or listed, f"{whole} is not in the table"


def leaves(values, path=()):
    """(path, default) of each value."""
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and value and key != "resources":
            yield from leaves(value, here)
        else:
            yield here, value


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def merged(one, other):
    both = {key: merged(one[key], value) if isinstance(value, dict) and key in one else value for key, value in other.items()}
    return one | both


def each_value_is_in_the_schema_and_changes_what_is_rendered():
    schema = json.loads((CHART / "values.schema.json").read_text())
    named = set()

    def collect(node, path):
        for key, child in node.get("properties", {}).items():
            named.add((*path, key))
            collect(child, (*path, key))

    collect(schema, ())
    # Helm's own, where the chart is part of another one.
    named.discard(("global",))
    plain = helm({}, KINDS).stdout
    for path, default in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        name = ".".join(path)
        assert path in named, f"{name} is not in the schema"
        other = SAMPLES.get(name, SAMPLES.get(path[-1]))
        if other is None:
            other = not default if isinstance(default, bool) else default + 1
        needs = NEEDS.get(name, {})
        before = helm(needs, KINDS).stdout if needs else plain
        ended = helm(merged(needs, nested(path, other)), KINDS)
        assert ended.returncode == 0, f"{name}: {ended.stderr}"
        assert ended.stdout != before, f"{name} changes nothing"
        named -= {path[:end] for end in range(1, len(path) + 1)}
    # What is left stands below a value whose keys are free or few.
    left = {".".join(path) for path in named if not path[-2:-1] == ("resources",)}
    assert not left, f"the schema has what values.yaml has not: {left}"


def helm_lints_it():
    subprocess.run([HELM, "lint", "--quiet", "--strict", CHART], check=True, capture_output=True)


def what_is_kept_is_never_deleted():
    for (kind, _, _), thing in rendered({"namespace": {"create": True}}).items():
        keeps = thing["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        assert keeps == (kind in ("CustomResourceDefinition", "Namespace")), thing["metadata"]["name"]


def no_backup_has_a_key():
    things = rendered({"commonLabels": {"velero.io/exclude-from-backup": "false"}})
    labels = {name: thing["metadata"]["labels"]["velero.io/exclude-from-backup"] for (kind, _, name), thing in things.items() if kind == "Secret"}
    assert labels == {"imdslet-webhook-tls": "true"}, labels


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
        "tenantId": "t.example", "cloud": "usgov", "authority": "https://a", "audience": "api://a", "scope": "namespaced", "whenUnbound": "deny", "endpoint": "link-local", "allowManaged": True,
        "allowAuthorities": ["https://a", "https://b"], "bindingProxy": {"url": "https://p", "sni": "s", "caConfigMap": "c"}, "extraCa": {"pem": PEM},
        "sidecar": {"image": {"digest": "sha256:" + "a" * 64}, "mode": "container", "runAsUser": "none", "imagePullSecrets": [{"name": "registry"}, {"name": "other"}], "port": 3000, "metricsPort": 9000,
                    "httpsProxy": "http://p:1", "noProxy": ".svc",
                    "resources": {"requests": {"cpu": 0.5}, "limits": {"memory": "32Mi"}}},
        "namespaces": {"web": {"httpsProxy": "", "extraCa": PEM}}, "logLevel": "debug",
    }
    things = rendered(values)
    data = one(things, "ConfigMap", "imdslet-config")["data"]
    assert all(isinstance(value, str) for value in data.values()), data
    expected = {
        "AZURE_TENANT_ID": "t.example", "IMDSLET_CLOUD": "usgov", "IMDSLET_SCOPE": "namespaced", "IMDSLET_WHEN_UNBOUND": "deny",
        "IMDSLET_ENDPOINT": "link-local", "IMDSLET_ALLOW_MANAGED": "true", "IMDSLET_ALLOW_AUTHORITY": "https://a,https://b",
        "AZURE_AUTHORITY_HOST": "https://a", "IMDSLET_AUDIENCE": "api://a", "IMDSLET_SIDECAR": "container", "IMDSLET_NO_PROXY": ".svc",
        "IMDSLET_BINDING_PROXY": "https://p", "IMDSLET_BINDING_SNI": "s", "IMDSLET_BINDING_CA_CONFIG_MAP": "c", "IMDSLET_EXTRA_CA": "/etc/imdslet/extra-ca/ca.crt",
        "IMDSLET_SIDECAR_IMAGE": "imdslet-sidecar@sha256:" + "a" * 64, "IMDSLET_SIDECAR_RUN_AS_USER": "none", "IMDSLET_PORT": "3000",
        "IMDSLET_SIDECAR_METRICS_PORT": "9000", "IMDSLET_HTTPS_PROXY": "http://p:1", "IMDSLET_LOG_LEVEL": "debug",
        "IMDSLET_SIDECAR_PULL_SECRET": "registry,other",
        "IMDSLET_SIDECAR_RESOURCES": '{"limits":{"memory":"32Mi"},"requests":{"cpu":0.5}}',
        "IMDSLET_NAMESPACE_SETTINGS": "/etc/imdslet/namespaces/namespaces.json",
    }
    assert expected.items() <= data.items(), data
    assert one(things, "ConfigMap", "imdslet-extra-ca")["data"]["ca.crt"] == PEM
    assert json.loads(one(things, "ConfigMap", "imdslet-namespaces")["data"]["namespaces.json"]) == values["namespaces"]
    for name in ("imdslet-webhook", "imdslet-controller"):
        pod = one(things, "Deployment", name)["spec"]["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"]}
        assert volumes[mounts["/etc/imdslet/namespaces"]] == "imdslet-namespaces", name


def pods_start_anew_with_other_settings():
    annotations = lambda values: one(rendered(values), "Deployment", "imdslet-webhook")["spec"]["template"]["metadata"]["annotations"]
    web = {"namespaces": {"web": {"noProxy": "a"}}}
    sums = [annotations(values)["checksum/settings"] for values in ({}, {"tenantId": "t.example"}, {"extraCa": {"pem": PEM}}, web,
                                                                    {"namespaces": {"web": {"noProxy": "b"}}})]
    assert len(set(sums)) == len(sums), sums


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
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": []}]}}}
    wanted = {"replicas": 3, "minAvailable": 0, "healthPort": 9080, "priorityClassName": "", "spread": [], "affinity": affinity,
              "tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}, "podLabels": {"l": "1"}, "podAnnotations": {"note": "1"},
              "resources": {"limits": {"memory": "1Gi"}, "requests": None}}
    digest = "sha256:" + "b" * 64
    things = rendered({
        "webhook": wanted | {"hostNetwork": True, "port": 9443}, "controller": wanted, "runAsUser": 0, "imagePullSecrets": [{"name": "r"}],
        "image": {"repository": "registry/webhook", "digest": digest, "pullPolicy": "Always"}, "commonLabels": {"team": "x"},
        "commonAnnotations": {"owner": "ops"}, "certificates": {"minTlsVersion": "1.2"}})
    for name, ports in {"imdslet-webhook": [9443, 9080], "imdslet-controller": [9080]}.items():
        deployment = one(things, "Deployment", name)["spec"]
        pod, metadata = deployment["template"]["spec"], deployment["template"]["metadata"]
        container, = pod["containers"]
        assert deployment["replicas"] == 3 and pod["nodeSelector"] == {"a": "b"} and pod["affinity"] == affinity, pod
        assert pod.get("hostNetwork", False) == (name == "imdslet-webhook"), name
        assert pod["imagePullSecrets"] == [{"name": "r"}] and pod["tolerations"] == [{"operator": "Exists"}], pod
        assert not {"priorityClassName", "topologySpreadConstraints"} & pod.keys(), pod
        assert "runAsUser" not in pod["securityContext"] and pod["securityContext"]["runAsNonRoot"], pod
        assert [port["containerPort"] for port in container["ports"]] == ports, container
        assert container["image"] == f"registry/webhook@{digest}" and container["imagePullPolicy"] == "Always", container
        assert container["resources"] == {"limits": {"memory": "1Gi"}}, container["resources"]
        variables = {one["name"]: one.get("value") for one in container["env"]}
        assert variables["IMDSLET_HEALTH_LISTEN"] == "0.0.0.0:9080", variables
        assert variables.get("IMDSLET_TLS_MIN_VERSION") == (name == "imdslet-webhook" and "1.2" or None), variables
        assert {"l": "1", "team": "x"}.items() <= metadata["labels"].items() and metadata["annotations"]["note"] == "1", metadata
        assert deployment["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        assert ("PodDisruptionBudget", "imdslet-system", name) not in things
    for (kind, _, name), thing in things.items():
        # The definitions are those of install.yaml, byte for byte.
        if kind != "CustomResourceDefinition":
            assert thing["metadata"]["labels"]["team"] == "x" and thing["metadata"]["annotations"]["owner"] == "ops", (kind, name)


def webhook_configurations_are_as_they_are_wanted():
    things = rendered({"webhook": {"failurePolicy": "Ignore", "timeoutSeconds": 9}, "disableAksEnforcer": True,
                       "namespaceSelector": [{"key": "env", "operator": "In", "values": ["prod"]}]})
    hook = one(things, "MutatingWebhookConfiguration", "imdslet")
    assert [entry["failurePolicy"] for entry in hook["webhooks"]] == ["Ignore"] * 3
    assert {entry["timeoutSeconds"] for entry in hook["webhooks"]} == {9}
    both = hook["webhooks"] + one(things, "ValidatingWebhookConfiguration", "imdslet")["webhooks"]
    assert all(entry["namespaceSelector"]["matchExpressions"][1]["key"] == "env" for entry in both)
    assert hook["metadata"]["annotations"] == {"admissions.enforcer/disabled": "true"}


def metrics_are_for_whom_the_policies_name():
    for create, sidecars in ((True, []), (False, ["web", "shop"]), (True, ["web"])):
        policies = {"create": create, "sidecarMetrics": sidecars, "metricsFrom": MONITORING}
        for port in (9464, 65535):
            things = rendered({"networkPolicies": policies, "sidecar": {"metricsPort": port}})
            made = {namespace: thing["spec"]["ingress"] for (kind, namespace, _), thing in things.items() if kind == "NetworkPolicy"}
            assert set(made) == {*sidecars, *(["imdslet-system"] if create else [])}, made
            for namespace, (others, metrics) in made.items():
                assert metrics["from"] == MONITORING and "from" not in others, made
                ours = namespace == "imdslet-system"
                assert metrics["ports"] == [{"port": "health" if ours else port}], made
                tcp = [ports for ports in others["ports"] if "protocol" not in ports]
                rest = [ports for ports in others["ports"] if "protocol" in ports]
                assert rest == [] if ours else rest == [{"port": 1, "endPort": 65535, "protocol": one} for one in ("UDP", "SCTP")], others
                reached = [ports for ports in tcp if not ours and ports["port"] <= port <= ports["endPort"]]
                assert not reached and len(tcp) == (1 if ours or port == 65535 else 2), others
    open_to_all = one(rendered({"networkPolicies": {"create": True}}), "NetworkPolicy", "imdslet")["spec"]["ingress"]
    assert open_to_all == [{"ports": [{"port": "https"}]}, {"ports": [{"port": "health"}]}], open_to_all


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
        ({"tenantId": "TENANT"}, ['tenantId is "TENANT"', "domain name"]),
        ({"tenantId": "7e000000-0000-4000-8000-00000000000"}, ["tenantId is", "GUID"]),
        ({"tenantId": "-contoso.example"}, ["tenantId is", "domain name"]),
        ({"webhook": {"timeoutSeconds": 4}}, ["timeoutSeconds"]),
        ({"webhook": {"replica": 1}}, ["webhook", "replica"]),
        ({"image": {"digest": "abc"}}, ["digest"]),
        ({"authority": "http://login"}, ["authority"]),
        ({"certificates": {"source": "files"}}, ["certificates.", "is empty"]),
        ({"extraCa": {"pem": PEM, "configMap": "c"}}, ["leave one of them out"]),
        ({"logLevel": "trace"}, ["logLevel", "debug"]),
        ({"sidecar": {"resources": {"limits": {"disk": "1Gi"}}}}, ["resources", "disk"]),
        ({"namespaces": {"Web": {}}}, ["namespaces", "Web"]),
        ({"namespaces": {"web": {"httpProxy": "http://p"}}}, ["web", "httpProxy"]),
        ({"namespaces": {"web": {"httpsProxy": "socks5://p"}}}, ["web", "httpsProxy"]),
        ({"azureIdentities": {"db": {"clientID": "c", "resourceId": "/r"}}}, ["db", "resourceId"]),
        ({"networkPolicies": {"create": True, "metricsFrom": [{"namespace": "monitoring"}]}}, ["metricsFrom", "namespace"]),
        ({"networkPolicies": {"create": True, "metricsFrom": MONITORING}, "webhook": {"hostNetwork": True}}, ["metricsFrom", "webhook.hostNetwork"]),
        ({"sidecar": {"imagePullSecrets": [{"name": "a..b"}]}}, ["sidecar/imagePullSecrets/0/name"]),
        ({"sidecar": {"imagePullSecrets": ["registry"]}}, ["sidecar/imagePullSecrets/0"]),
        ({"networkPolicies": {"metricsFrom": MONITORING}}, ["networkPolicies.metricsFrom", "networkPolicies.create"]),
        ({"networkPolicies": {"sidecarMetrics": ["web"]}, "sidecar": {"metricsPort": 9464}}, ["sidecarMetrics", "metricsFrom"]),
        ({"networkPolicies": {"sidecarMetrics": ["web"], "metricsFrom": MONITORING}}, ["sidecarMetrics", "sidecar.metricsPort"]),
    ):
        ended = helm(values, KINDS)
        assert ended.returncode and all(word in ended.stderr for word in words), f"{values}: {ended.stderr}"
    ended = helm({"azureIdentities": {"db": {"clientID": "c"}}}, KINDS)
    assert "azureIdentities.db.resourceID is missing" in ended.stderr, ended.stderr
    assert "install without azureIdentities first" in helm({"azureIdentities": {"db": IDENTITY}}).stderr


TESTS = [
    install_yaml_and_the_page_and_the_copies_are_made_of_it, the_page_says_what_became_of_each_value_of_the_old_chart, each_value_is_in_the_schema_and_changes_what_is_rendered, helm_lints_it,
    what_is_kept_is_never_deleted, no_backup_has_a_key, a_large_uid_stays_a_number, settings_arrive, pods_start_anew_with_other_settings, another_namespace_is_everywhere,
    a_certificate_of_somebody_else_takes_the_rights_away, pods_are_as_they_are_wanted,
    webhook_configurations_are_as_they_are_wanted, metrics_are_for_whom_the_policies_name, what_is_optional_comes_when_it_is_asked_for,
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
