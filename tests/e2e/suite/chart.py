"""Helm itself installs, upgrades, rolls back and uninstalls the chart, on a cluster that had install.yaml."""

import json
import os
import subprocess

from cluster import ROOT
from entra import TENANT
from harness import SYSTEM, container, test

CHART = ROOT / "manifests/chart"
CONFIGURATIONS = "mutatingwebhookconfiguration,validatingwebhookconfiguration"


def helm(t, *args):
    command = [os.environ["HELM"], f"--kubeconfig={os.environ['K8S_KUBECONFIG']}", f"--namespace={SYSTEM}", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"helm {args[0]}: {done.stderr}"
    return done.stdout


def values(t):
    """What an operator sets for this cluster."""
    path = t.cluster.folder / "values.json"
    path.write_text(json.dumps({
        "tenantId": TENANT,
        "authority": t.cluster.entra.url,
        "extraCa": {"configMap": "imdslet-extra-ca"},
        "image": {"pullPolicy": "IfNotPresent"},
    }))
    return f"--values={path}"


def replicas(t):
    return t.api.get("Deployment", SYSTEM, "imdslet-webhook")["spec"]["replicas"]


def policies(t):
    things = json.loads(t.cluster.run("get", "networkpolicy", "--all-namespaces", "--output=json"))["items"]
    names = (f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in things)
    return sorted(names, key=lambda name: not name.startswith(SYSTEM))


def rolled_out(t):
    for name in ("imdslet-webhook", "imdslet-controller"):
        t.cluster.wait_for_rollout(name)


@test
def helm_takes_over_upgrades_rolls_back_and_uninstalls_and_no_identity_is_lost(t):
    t.bound()
    t.pod("before")
    t.verified("before")
    try:
        helm(t, "install", "imdslet", str(CHART), values(t), "--take-ownership")
        rolled_out(t)
        t.pod("installed")
        t.verified("installed")
        network = ["--set=networkPolicies.create=true", f"--set=networkPolicies.denyNodeIdentity={{{t.namespace}}}"]
        helm(t, "upgrade", "imdslet", str(CHART), values(t), "--set=webhook.replicas=3", "--set=whenUnbound=deny", *network)
        rolled_out(t)
        assert replicas(t) == 3, replicas(t)
        # Accepted; the network of these tests enforces none.
        assert policies(t) == [f"{SYSTEM}/imdslet", f"{t.namespace}/imdslet-deny-node-identity"], policies(t)
        denied = lambda: t.pod("nobody", label=f"{t.label}-nobody")
        assert t.cluster.is_denied(denied, "imdslet.dev/when-unbound: deny"), "the setting is in force"
        helm(t, "rollback", "imdslet", "1")
        rolled_out(t)
        assert (replicas(t), policies(t)) == (2, []), (replicas(t), policies(t))
        t.pod("nobody", label=f"{t.label}-nobody")
        t.pod("back")
        t.verified("back")
        # As docs/chart.md has it.
        t.cluster.run("delete", CONFIGURATIONS, "imdslet")
        helm(t, "uninstall", "imdslet", "--wait")
        assert not t.api.find("Deployment", SYSTEM, "imdslet-webhook"), "the webhook is still there"
        names = [one["metadata"]["name"] for one in t.api.list("AzureIdentity", t.namespace)]
        assert names == ["identity"], f"the identities are {names}"
        assert t.api.list("AzureIdentityBinding", t.namespace), "the bindings are gone"
        t.pod("plain", containers=[container()])
        assert "initContainers" not in t.api.get("Pod", t.namespace, "plain")["spec"]
    finally:
        t.cluster.install()
    t.pod("after")
    t.verified("after")
