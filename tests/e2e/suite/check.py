"""`imdslet check` on a real cluster, whole and broken."""

import json

from explain_live import imdslet
from harness import SYSTEM, test


def checked(t, *args, user=None):
    """Exit code, and each check by its name: verdict and all that is said."""
    done = imdslet(t, "check", f"--namespace={t.namespace}", "-o=json", *args, user=user)
    assert done.stdout, done.stderr
    checks = [check for group in json.loads(done.stdout)["groups"] for check in group["checks"]]
    said = lambda check: f"{check['title']}; {check['message']}; {check['remedy']}"
    return done.returncode, {check["name"]: (check["verdict"], said(check)) for check in checks}


def bad(checks):
    return {name: verdict for name, (verdict, _) in checks.items() if verdict not in ("passed", "note")}


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
    # The sidecar was asked itself, by a port-forward: its log was not needed.
    assert checks["token"][1].endswith("; None; None"), checks["token"]
    done = imdslet(t, "check", f"--namespace={t.namespace}")
    assert "√ 2 of 2 replicas of imdslet-webhook are ready" in done.stdout, done.stdout
    assert "\x1b" not in done.stdout, "it has colours, and this is no terminal"


@test
def what_is_broken_is_named_by_the_check_that_it_breaks(t):
    t.bound()
    # An identity that Entra ID does not trust for this service account.
    t.identity("untrusted", t.other_client_id)
    t.cluster.entra.trust(t.other_client_id, "elsewhere")
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
        assert "it is scaled to 0" in checks["webhook-ready"][1], checks["webhook-ready"]
        assert "cannot ask the webhook" in checks["admission"][1], checks["admission"]
    finally:
        t.cluster.scale("imdslet-webhook", replicas)
        t.cluster.wait_for_rollout("imdslet-webhook")
    upgrades_that_do_not_end(t)
    done = imdslet(t, "check", f"--namespace={t.namespace}", "--wait=60s")
    assert done.returncode == 0, done.stdout


def upgrades_that_do_not_end(t):
    """The replicas of before stay, and what keeps the new one is said."""
    path = t.api.path("Deployment", SYSTEM, "imdslet-controller")
    before = t.api.get("Deployment", SYSTEM, "imdslet-controller")["spec"]["template"]["spec"]["containers"][0]
    said = lambda: checked(t)[1]["controller-ready"]

    def change(**container):
        template = {"spec": {"containers": [{"name": "controller", **container}]}}
        content_type = "application/strategic-merge-patch+json"
        t.api.json("PATCH", path, body={"spec": {"template": template}}, content_type=content_type)

    tenant = lambda value: [{"name": "AZURE_TENANT_ID", **value}]
    for wrong, right, words in (
        ({"image": "registry.invalid/x:1"}, {"image": before["image"]}, ["registry.invalid/x:1", "an image that the nodes can pull"]),
        # It counts before that of the ConfigMap.
        ({"env": tenant({"value": "contoso"})}, {"env": tenant({"$patch": "delete"})}, ["is `contoso`; it must be a tenant id", "logs"]),
    ):
        change(**wrong)
        try:
            t.eventually(f"the check says {words}", lambda: all(word in said()[1] for word in words), 90)
            verdict, text = said()
            assert verdict == "warning" and "2 of 2 are ready" in text, text
        finally:
            change(**right)
            t.cluster.wait_for_rollout("imdslet-controller")


@test
def the_roles_that_check_prints_are_all_that_it_needs(t):
    t.bound()
    t.pod()
    t.verified()
    user, workload = f"checker-{t.namespace}", f"--workload={t.namespace}/app"
    cluster_role, role = t.cluster.read(write(t, imdslet(t, "check", "--rbac", workload).stdout))
    cluster_role["metadata"]["name"] = user
    assert role["metadata"]["namespace"] == t.namespace, role
    code, checks = checked(t, workload, user=user)
    assert code == 3 and checks["custom-resources"][0] == "unknown", checks
    granted = lambda name, verdicts: lambda: checked(t, workload, user=user)[1][name][0] in verdicts
    t.api.create(cluster_role)
    t.api.create(bound_to(user, cluster_role))
    try:
        t.eventually("the ClusterRole is in force", granted("custom-resources", ["passed"]), 20)
        # But for the dry run, which needs the right to create pods in one namespace, and for the pod.
        expected = {"issuer": "warning", "admission": "unknown"}
        code, checks = checked(t, workload, user=user)
        assert bad(checks) == {**expected, "token": "unknown"}, checks
        assert "you may not get and create pods/portforward in namespace" in checks["token"][1], checks["token"]
        # Who may read logs alone is told by them, and that it is so.
        (log,) = [rule for rule in role["rules"] if rule["resources"] == ["pods/log"]]
        logs = {**role, "metadata": {"name": "logs", "namespace": t.namespace}, "rules": [log]}
        t.api.create(logs)
        t.api.create(bound_to(user, logs))
        t.eventually("the log may be read", granted("token", ["passed"]), 20)
        assert "the sidecar's log says so" in checked(t, workload, user=user)[1]["token"][1]
        t.api.create(role)
        t.api.create(bound_to(user, role))
        asked = lambda: "None; None" in checked(t, workload, user=user)[1]["token"][1]
        t.eventually("the sidecar may be asked", asked, 20)
        assert bad(checked(t, workload, user=user)[1]) == expected, checks
    finally:
        t.api.delete("ClusterRoleBinding", None, user)
        t.api.delete("ClusterRole", None, user)


def bound_to(user, role):
    """What gives a user a role, or a cluster's role."""
    group = "rbac.authorization.k8s.io"
    return {"kind": f"{role['kind']}Binding", "apiVersion": f"{group}/v1", "metadata": dict(role["metadata"]),
            "roleRef": {"apiGroup": group, "kind": role["kind"], "name": role["metadata"]["name"]},
            "subjects": [{"apiGroup": group, "kind": "User", "name": user}]}


def write(t, text):
    path = t.cluster.folder / "role.yaml"
    path.write_text(text)
    return path
