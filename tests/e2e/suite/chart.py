"""Helm itself installs, upgrades, rolls back and uninstalls the chart, on a cluster that had install.yaml; its options at work."""

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time

from cert_manager import SERVICE_MONITOR, CertManager, definitions, encoded, pem, shown, write_secret
from cluster import DEPLOYMENTS, ROOT
from entra import TENANT
from harness import SYSTEM, container, resource_id, test
from lifecycle import restarts
from outages import Stream, is_told
from stand_ins import Authority

CHART = ROOT / "manifests/chart"
CONFIGURATIONS = "mutatingwebhookconfiguration,validatingwebhookconfiguration"
# The chart and the programs of today, under the number of another release.
OLDER = "0.0.9"
# What its definition of AzureIdentity calls a column, and no other has.
OLD_COLUMN = "FormerClientID"


def run_helm(*args):
    command = [os.environ["HELM"], f"--kubeconfig={os.environ['K8S_KUBECONFIG']}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def helm(t, *args):
    done = run_helm(f"--namespace={SYSTEM}", *args)
    assert done.returncode == 0, f"helm {args[0]}: {done.stderr}"
    return done.stdout


def values(t, **more):
    """What an operator sets for this cluster."""
    path = t.cluster.folder / "values.json"
    path.write_text(json.dumps({
        "tenantId": TENANT,
        "authority": t.cluster.entra.url,
        "extraCa": {"configMap": "imdslet-extra-ca"},
        "image": {"pullPolicy": "IfNotPresent"},
    } | more))
    return f"--values={path}"


def replicas(t):
    return t.api.get("Deployment", SYSTEM, "imdslet-webhook")["spec"]["replicas"]


def policies(t):
    things = json.loads(t.cluster.run("get", "networkpolicy", "--all-namespaces", "--output=json"))["items"]
    names = (f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in things)
    return sorted(names, key=lambda name: not name.startswith(SYSTEM))


def rolled_out(t):
    for name in DEPLOYMENTS:
        t.cluster.wait_for_rollout(name)


def older_chart(t):
    """The chart as another release has it, and the images that it names."""
    folder = t.cluster.folder / "older-chart"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CHART, folder)
    text = (folder / "Chart.yaml").read_text()
    version = re.search(r"^appVersion: (.+)$", text, re.MULTILINE).group(1)
    (folder / "Chart.yaml").write_text(text.replace(version, OLDER))
    definitions = folder / "files/crds.yaml"
    definitions.write_text(definitions.read_text().replace("name: ClientID", f"name: {OLD_COLUMN}"))
    for name in ("imdslet-webhook", "imdslet-sidecar"):
        image = f"docker.io/library/{name}"
        t.cluster.ctr("images", "tag", "--force", f"{image}:{version}", f"{image}:{OLDER}")
    return folder, version


def uninstall(t):
    """As docs/chart.md has it."""
    t.cluster.run("delete", CONFIGURATIONS, "imdslet", "--ignore-not-found")
    helm(t, "uninstall", "imdslet", "--wait", "--ignore-not-found")


@contextlib.contextmanager
def release(t, *flags):
    """While it lasts a release of the chart serves the cluster."""
    try:
        helm(t, "install", "imdslet", CHART, *flags, "--take-ownership")
        rolled_out(t)
        yield
    finally:
        uninstall(t)
        t.cluster.install()


@test
def helm_takes_over_upgrades_rolls_back_and_uninstalls_and_no_identity_is_lost(t):
    t.bound()
    other = f"c1{t.client_id[2:]}"
    t.cluster.entra.trust(other, t.namespace)
    t.pod("before")
    t.verified("before")
    older, version = older_chart(t)
    definition = lambda: t.api.get("CustomResourceDefinition", None, "azureidentities.aadpodidentity.k8s.io")
    is_old = lambda: OLD_COLUMN in json.dumps(definition()["spec"])
    made = definition()["metadata"]["uid"]
    sidecar_of = lambda pod: t.api.get("Pod", t.namespace, pod)["spec"]["initContainers"][0]["image"]

    def both_follow(client_id):
        """Pods of either release are told of what changes by the controller of either."""
        since = time.time()
        t.api.patch("AzureIdentity", t.namespace, "identity", {"spec": {"clientID": client_id}})
        for pod in ("installed", "upgraded"):
            t.follows(client_id, pod, since=since)

    try:
        helm(t, "install", "imdslet", older, values(t), "--take-ownership")
        rolled_out(t)
        t.pod("installed", containers=[container("loop")])
        t.verified("installed")
        assert sidecar_of("installed") == f"imdslet-sidecar:{OLDER}", sidecar_of("installed")
        assert is_old(), "the older chart has brought its definitions"
        began = time.time()
        network = ["--set=networkPolicies.create=true", f"--set=networkPolicies.denyNodeIdentity={{{t.namespace}}}"]
        helm(t, "upgrade", "imdslet", CHART, values(t), "--set=webhook.replicas=3", "--set=whenUnbound=deny", *network)
        rolled_out(t)
        assert replicas(t) == 3, replicas(t)
        assert not is_old(), "the definitions are not upgraded"
        # Accepted; that they hold is shown by network_policies.py.
        assert policies(t) == [f"{SYSTEM}/imdslet", f"{t.namespace}/imdslet-deny-node-identity"], policies(t)
        denied = lambda: t.pod("nobody", label=f"{t.label}-nobody")
        assert t.cluster.is_denied(denied, "imdslet.dev/when-unbound: deny"), "the setting is in force"
        t.pod("upgraded", containers=[container("loop")])
        t.verified("upgraded")
        assert sidecar_of("upgraded") == f"imdslet-sidecar:{version}", sidecar_of("upgraded")
        both_follow(other)
        helm(t, "rollback", "imdslet", "1")
        rolled_out(t)
        assert (replicas(t), policies(t)) == (2, []), (replicas(t), policies(t))
        both_follow(t.client_id)
        for pod in ("installed", "upgraded"):
            assert not t.refused(pod, began), t.refused(pod, began)[0]
            assert set(restarts(t, pod).values()) == {0}, restarts(t, pod)
        t.pod("nobody", label=f"{t.label}-nobody")
        t.pod("back")
        t.verified("back")
        uninstall(t)
        assert not t.api.find("Deployment", SYSTEM, "imdslet-webhook"), "the webhook is still there"
        assert definition()["metadata"]["uid"] == made, "the definition was deleted and made anew"
        names = [one["metadata"]["name"] for one in t.api.list("AzureIdentity", t.namespace)]
        assert names == ["identity"], f"the identities are {names}"
        assert t.api.list("AzureIdentityBinding", t.namespace), "the bindings are gone"
        t.pod("plain", containers=[container()])
        assert "initContainers" not in t.api.get("Pod", t.namespace, "plain")["spec"]
    finally:
        t.cluster.install()
    t.pod("after")
    t.verified("after")


def helm_refuses(*args):
    """What Helm says where it ends with an error."""
    done = run_helm(*args)
    assert done.returncode, f"helm {args}: {done.stdout}"
    return done.stderr


@test
def what_a_stranger_gets_wrong_is_said_with_what_to_do(t):
    t.make_namespace()
    install = ("install", "another", CHART, f"--set=tenantId={TENANT}")
    said = helm_refuses(*install, f"--namespace={t.namespace}", "--take-ownership")
    assert f"imdslet is in namespace {SYSTEM} already" in said and f"--namespace {SYSTEM}" in said, said
    # The definitions and all else are install.yaml's, or those of the old chart: Helm takes nothing over unasked.
    said = helm_refuses(*install, f"--namespace={SYSTEM}")
    assert "invalid ownership metadata" in said, said
    said = helm_refuses("template", CHART, "--kube-version=1.29.9")
    assert ">=1.30.0" in said and "1.29.9" in said, said


def rights(t):
    """What the account of the admission replicas may do, as kubectl lists it."""
    return t.cluster.run("auth", "can-i", "--list", f"--namespace={SYSTEM}", f"--as=system:serviceaccount:{SYSTEM}:imdslet-webhook")


def renewed(t, certificate):
    """Waits until every replica shows a certificate, which the kubelet brings to it."""
    wanted, began = {pem(certificate.read_text())}, time.time()
    t.eventually("every replica shows it", lambda: shown(t) == wanted, 150)
    return time.time() - began


@test
def certificates_of_cert_manager_and_of_files_are_served_and_renewed_without_a_right_to_write(t):
    t.bound()
    with CertManager(t) as manager, release(t, values(t)):
        assert "mutatingwebhookconfigurations" in rights(t), "by its own certificate it may"
        helm(t, "upgrade", "imdslet", CHART, values(t, certificates={"source": "cert-manager"}))
        certificate = manager.issue()
        manager.inject()
        rolled_out(t)
        assert not {"mutatingwebhookconfigurations", "secrets"} & set(re.split(r"\W", rights(t))), rights(t)
        assert shown(t) == {pem(certificate.read_text())}
        t.pod("cert-manager")
        t.verified("cert-manager")
        with Stream(t):
            certificate = manager.issue()
            t.note(f"cert-manager: renewed everywhere after {renewed(t, certificate):.0f} s")

        authority = Authority(t.cluster.folder / "files")
        name = f"imdslet-webhook.{SYSTEM}.svc"
        write = lambda pair: write_secret(t.cluster, "own-files", "kubernetes.io/tls", {
            "tls.crt": encoded(pair[0]), "tls.key": encoded(pair[1])})
        try:
            pair = authority.issue(name)
            write(pair)
            files = {"source": "files", "secret": "own-files", "ca": authority.ca.read_text()}
            helm(t, "upgrade", "imdslet", CHART, values(t, certificates=files))
            rolled_out(t)
            hook = t.api.get("MutatingWebhookConfiguration", None, "imdslet")["webhooks"]
            bundles = {base64.b64decode(one["clientConfig"]["caBundle"]).decode() for one in hook}
            assert bundles == {authority.ca.read_text()}, bundles
            assert shown(t) == {pem(pair[0].read_text())}
            t.pod("files")
            t.verified("files")
            with Stream(t):
                pair = authority.issue(name)
                write(pair)
                t.note(f"files: renewed everywhere after {renewed(t, pair[0]):.0f} s")
            # And the replicas make their own again.
            helm(t, "rollback", "imdslet", "1")
            rolled_out(t)
            t.eventually("every entry trusts their CA", lambda: is_told(t), 30)
            t.pod("own")
            t.verified("own")
        finally:
            t.api.delete("Secret", SYSTEM, "own-files")


@test
def what_the_chart_sets_is_at_work(t):
    t.bound()
    nowhere = "http://192.0.2.1:3128"
    t.cluster.run("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    wanted = {
        "extraCa": {},
        # Nobody gets through the proxy of all, and nobody else has the CA.
        "namespaces": {t.namespace: {"httpsProxy": "", "extraCa": t.cluster.entra.ca}},
        "sidecar": {"httpsProxy": nowhere, "resources": {"limits": {"memory": "24Mi"}}},
        "webhook": {"replicas": 1, "hostNetwork": True, "port": 9443, "healthPort": 9080, "failurePolicy": "Ignore"},
        "controller": {"replicas": 1, "healthPort": 9081},
        "certificates": {"minTlsVersion": "1.2"},
        "logLevel": "debug",
        "scope": "namespaced",
    }
    with release(t, values(t)):
        # Not at once: Helm knows no ports that it could take away from what another has made.
        helm(t, "upgrade", "imdslet", CHART, values(t, **wanted))
        rolled_out(t)
        replica, = t.cluster.pods_of("imdslet-webhook")
        assert replica["status"]["podIP"] == replica["status"]["hostIP"], "it is on the network of its node"
        t.pod()
        t.verified()
        sidecar = t.api.get("Pod", t.namespace, "app")["spec"]["initContainers"][0]
        assert sidecar["resources"] == {"requests": {"cpu": "5m", "memory": "24Mi"}, "limits": {"memory": "24Mi"}}, sidecar
        other = t.make_namespace(name=f"{t.namespace}-other")
        t.pod("elsewhere", namespace=other)
        elsewhere = t.api.get("Pod", other, "elsewhere")["spec"]["initContainers"][0]
        assert {"name": "HTTPS_PROXY", "value": nowhere} in elsewhere["env"], elsewhere["env"]
        assert "startupProbe" in elsewhere, "it is not bound: its namespace has no binding"
        assert "startupProbe" not in sidecar
        t.create("AzurePodIdentityException", "quiet", {"podLabels": {"quiet": "yes"}})
        # Once the replica knows of it, its decision is of no account, and logged by `debug` alone.
        made = itertools.count()

        def is_logged():
            t.pod(f"quiet-{next(made)}", labels={"quiet": "yes"})
            return '"level":"DEBUG"' in t.cluster.logs("imdslet-webhook")

        t.eventually("a decision of no account is logged", is_logged, 20)
        t.cluster.scale("imdslet-webhook", 0)
        t.cluster.wait_for_rollout("imdslet-webhook")
        t.pod("open")
        assert "initContainers" not in t.api.get("Pod", t.namespace, "open")["spec"], "failurePolicy is Ignore"


def cases(t):
    """(values, what kubectl warns of) that the API server takes."""
    authority = t.cluster.entra.ca
    identity = {"namespace": t.namespace, "clientID": t.client_id, "resourceID": resource_id("db"), "binding": {"selector": "s"}}
    term = {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
    placed = {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "spread": [], "priorityClassName": "",
              "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}},
              "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"}, "resources": {"requests": {"cpu": 1}}}
    return (
        ({}, ""),
        ({"commonLabels": {"team": "x"}, "commonAnnotations": {"a": "b"}, "disableAksEnforcer": True}, ""),
        ({"namespaceSelector": [{"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"}]}, ""),
        ({"namespace": {"create": True, "podSecurity": "baseline"}}, ""),
        # What Pod Security would say of the pods: the namespace has still the level that it had.
        ({"namespace": {"create": True, "podSecurity": "privileged"}, "webhook": {"hostNetwork": True, "port": 9443}},
         "would violate PodSecurity"),
        ({"webhook": {"replicas": 1}, "controller": {"replicas": 1}}, ""),
        ({"webhook": {"minAvailable": 0, "failurePolicy": "Ignore", "timeoutSeconds": 30}, "scope": "namespaced", "whenUnbound": "deny"}, ""),
        ({"webhook": placed, "controller": placed}, ""),
        ({"image": {"digest": "sha256:" + "a" * 64}, "imagePullSecrets": [{"name": "r"}], "runAsUser": 1000650000}, ""),
        ({"extraCa": {"pem": authority}, "namespaces": {"web": {"extraCa": authority}}, "sidecar": {"resources": {"limits": {"cpu": 0.1}}}}, ""),
        ({"certificates": {"source": "cert-manager"}}, ""),
        ({"certificates": {"source": "cert-manager", "issuer": {"kind": "ClusterIssuer", "name": "internal"}}}, ""),
        ({"certificates": {"source": "files", "secret": "s", "ca": authority, "minTlsVersion": "1.2"}}, ""),
        ({"metrics": {"serviceMonitor": True, "interval": "1m", "labels": {"prometheus": "main"}}}, ""),
        ({"csi": {"enabled": True}, "userRoles": {"create": True}}, ""),
        ({"networkPolicies": {"create": True, "denyNodeIdentity": [t.namespace]}}, ""),
        ({"networkPolicies": {"create": True, "sidecarMetrics": [t.namespace], "metricsFrom": [
            {"namespaceSelector": term, "podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]}, "sidecar": {"metricsPort": 65535}}, ""),
        # By imdslet itself, since nothing of a dry run is there for what comes after it.
        ({"azureIdentities": {"db": identity}}, "AzureIdentity"),
    )


@test
def the_api_server_takes_what_the_options_of_the_chart_render(t):
    t.make_namespace()
    monitor = definitions(t.cluster, *SERVICE_MONITOR)
    with CertManager(t):
        t.cluster.apply(monitor, "--server-side")
        t.cluster.run("wait", "--for=condition=Established", f"crd/{monitor[0]['metadata']['name']}")
        try:
            for wanted, warning in cases(t):
                # Without the values of this cluster, whose ConfigMap and `extraCa.pem` exclude each other.
                path = t.cluster.folder / "case.json"
                path.write_text(json.dumps(wanted))
                flags = ["--api-versions=aadpodidentity.k8s.io/v1/AzureIdentity", "--kube-version=1.34.0", f"--values={path}"]
                text = helm(t, "template", "imdslet", CHART, *flags)
                apply = ["apply", "--dry-run=server", "--filename=-"]
                done = subprocess.run([*t.cluster.kubectl, *apply], input=text, text=True, capture_output=True)
                assert done.returncode == 0, f"{wanted}: {done.stderr}"
                assert warning in done.stderr and bool(warning) == bool(done.stderr), f"{wanted}: {done.stderr}"
        finally:
            t.cluster.remove(monitor)
    t.note(f"{len(cases(t))} sets of values")
