"""What the command reads of a real cluster."""

import json
import os
import subprocess

from entra import TENANT
from harness import container, test


def imdslet(t, *args, user=None):
    """Exit code, output and complaints of the command, as the cluster's administrator or as somebody else."""
    config = os.environ["K8S_KUBECONFIG"]
    command = [os.environ["IMDSLET"], *args, f"--kubeconfig={config}"]
    if user:
        path = t.cluster.folder / "somebody.kubeconfig"
        text = subprocess.run([*t.cluster.kubectl, "config", "view", "--raw", "-o", "json"], check=True, capture_output=True, text=True).stdout
        known = json.loads(text)
        known["users"][0]["user"]["as"] = user
        path.write_text(json.dumps(known))
        command[-1] = f"--kubeconfig={path}"
    return subprocess.run(command, capture_output=True, text=True)


@test
def a_running_pod_is_explained_from_the_cluster_down_to_the_credential_that_it_uses(t):
    t.bound()
    t.pod()
    t.verified()
    done = imdslet(t, "explain", "--live", "-o=json", f"pod/{t.namespace}/app")
    assert done.returncode == 0, done.stderr
    (pod,) = json.loads(done.stdout)["pods"]
    name = f"{t.namespace}/identity"
    assert (pod["outcome"], pod["told"]) == ("served", [name]), pod
    (binding,) = pod["bindings"]
    assert (binding["identity"], binding["isDefault"]) == (name, True), binding
    needs = binding["gives"]["needs"]
    assert needs["issuer"] == os.environ["K8S_ISSUER"], needs
    assert needs["subject"] == f"system:serviceaccount:{t.namespace}:default", needs
    # Nobody has said it here: it is what the installation is set to.
    assert binding["gives"]["tenantId"] == TENANT, binding
    # One that waits, and why.
    t.pod("lost", label=f"{t.label}-other")
    done = imdslet(t, "explain", "--live", f"--tenant-id={TENANT}", f"pod/{t.namespace}/lost")
    assert done.returncode == 1 and "it waits for an identity (Unbound)" in done.stdout, done


@test
def a_plan_of_the_move_is_read_from_the_cluster_and_whoever_may_not_read_it_is_told_what_is_missing(t):
    t.bound()
    t.pod(containers=[container()])
    done = imdslet(t, "migrate", "--live", f"--tenant-id={TENANT}", "-o=json")
    assert done.returncode in (0, 1), done.stderr
    credentials = [one for one in json.loads(done.stdout)["federatedCredentials"] if one["clientId"] == t.client_id]
    (credential,) = credentials
    assert credential["issuer"] == os.environ["K8S_ISSUER"], credential
    assert credential["subject"] == f"system:serviceaccount:{t.namespace}:default", credential
    done = imdslet(t, "migrate", "--live", f"--tenant-id={TENANT}", "--issuer=https://issuer.example/", "-o=json", user="somebody")
    assert (done.returncode, done.stdout) == (3, ""), done
    for line in ("list pods in all namespaces (kubectl auth can-i list pods -A)", "list azureidentities.aadpodidentity.k8s.io"):
        assert line in done.stderr, done.stderr
