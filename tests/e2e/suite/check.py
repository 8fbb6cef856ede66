"""`imdslet check` on a real cluster, whole and broken."""

import json

from harness import SYSTEM, test
from live import imdslet


def checked(t, *args, user=None):
    """Exit code, and each check by its name: verdict and all that is said."""
    done = imdslet(t, "check", f"--namespace={t.namespace}", "-o=json", *args, user=user)
    assert done.stdout, done.stderr
    checks = [check for group in json.loads(done.stdout)["groups"] for check in group["checks"]]
    said = lambda check: f"{check['title']}; {check['message']}; {check['remedy']}"
    return done.returncode, {check["name"]: (check["verdict"], said(check)) for check in checks}


def bad(checks):
    return {name: verdict for name, (verdict, _) in checks.items() if verdict != "passed"}


@test
def a_cluster_where_everything_works_has_ticks_down_to_the_token_of_a_pod(t):
    t.bound()
    t.pod()
    t.verified()
    code, checks = checked(t, f"--workload={t.namespace}/app")
    # No way leads out of this network, so nobody publishes the issuer's keys for us.
    assert bad(checks) == {"issuer": "warning"}, checks
    assert code == 0, code
    assert "got 1 of 1 tokens" in checks["token"][1], checks["token"]
    done = imdslet(t, "check", f"--namespace={t.namespace}")
    assert "√ 2 of 2 replicas of imdslet-webhook are ready" in done.stdout, done.stdout
    assert "\x1b" not in done.stdout, "it has colours, and this is no terminal"


@test
def what_is_broken_is_named_by_the_check_that_it_breaks(t):
    t.bound()
    # An identity that Entra ID does not trust for this service account.
    t.identity("untrusted", t.client_id[:-6] + "999999")
    t.cluster.entra.trust(t.client_id[:-6] + "999999", "elsewhere")
    t.bind(f"{t.label}-2", name="second", identity="untrusted")
    t.pod("refused", label=f"{t.label}-2")
    assert t.first_answer("refused")["status"] == 400
    code, checks = checked(t, f"--workload={t.namespace}/refused")
    assert code == 1 and checks["token"][0] == "failed", checks["token"]
    assert "az identity federated-credential create" in checks["token"][1], checks["token"]
    assert "it is the federated credential" in checks["token"][1], checks["token"]
    replicas = t.api.get("Deployment", SYSTEM, "imdslet-webhook")["spec"]["replicas"]
    t.cluster.scale("imdslet-webhook", 0)
    try:
        gone = lambda: not t.cluster.pods_of("imdslet-webhook")
        t.eventually("the webhook is gone", gone, 60)
        code, checks = checked(t)
        assert code == 1, code
        assert checks["webhook-ready"][0] == checks["admission"][0] == "failed", checks
        assert "cannot ask the webhook" in checks["admission"][1], checks["admission"]
    finally:
        t.cluster.scale("imdslet-webhook", replicas)
        t.cluster.wait_for_rollout("imdslet-webhook")
    done = imdslet(t, "check", f"--namespace={t.namespace}", "--wait=60s")
    assert done.returncode == 0, done.stdout


@test
def the_role_that_check_prints_is_all_that_it_needs(t):
    t.make_namespace()
    role = t.cluster.read(write(t, imdslet(t, "check", "--rbac").stdout))[0]
    user = f"checker-{t.namespace}"
    role["metadata"]["name"] = user
    group = "rbac.authorization.k8s.io"
    binding = {"kind": "ClusterRoleBinding", "apiVersion": f"{group}/v1", "metadata": {"name": user},
               "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": user},
               "subjects": [{"apiGroup": group, "kind": "User", "name": user}]}
    code, checks = checked(t, user=user)
    assert code == 3 and checks["custom-resources"][0] == "unknown", checks
    t.api.create(role)
    t.api.create(binding)
    try:
        granted = lambda: checked(t, user=user)[1]["custom-resources"][0] == "passed"
        t.eventually("the role is in force", granted, 20)
        code, checks = checked(t, user=user)
        # But for the dry run, which needs the right to create pods in one namespace.
        assert bad(checks) == {"issuer": "warning", "admission": "unknown"}, checks
    finally:
        t.api.delete("ClusterRoleBinding", None, user)
        t.api.delete("ClusterRole", None, user)


def write(t, text):
    path = t.cluster.folder / "role.yaml"
    path.write_text(text)
    return path
