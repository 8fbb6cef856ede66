"""The move from aad-pod-identity, by the commands that `imdslet migrate` prints."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from cluster import ROOT
from entra import TENANT
from harness import SYSTEM, container, restricted, test

FINALIZER = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"


def shell(script, folder, **env):
    """Runs commands as a person would, with kubectl for this cluster; what they printed."""
    path = f"{os.environ['K8S_BIN']}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(folder), "KUBECONFIG": os.environ["K8S_KUBECONFIG"], **env}
    done = subprocess.run(["sh", "-eu", "-c", script], cwd=folder, env=env, text=True, capture_output=True,
                          timeout=400)
    assert done.returncode == 0, f"{script}\nends with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def guide(test):
    """The commands of docs/guides that say that this test runs them, block by block."""
    blocks = [block for path in sorted((ROOT / "docs/guides").glob("*.md"))
              for block in path.read_text().split("```")[1::2]]
    marked = [text for said, _, text in (block.partition("\n") for block in blocks)
              if said == f"sh e2e={test.__name__}"]
    assert marked, f"no guide says that {test.__name__} runs it"
    return marked


def alone(t):
    """Waits until no namespace of another test is on its way out: what is planned must stay."""
    leaving = lambda: [one for one in t.api.list("Namespace") if "deletionTimestamp" in one["metadata"]]
    t.eventually("no namespace of another test is on its way out", lambda: not leaving(), 90)


def plan(t, folder):
    """The plan of this cluster as it is, from a dump of it."""
    alone(t)
    for commands in guide(the_plan_of_this_cluster_turns_every_failing_pod_green):
        shell(commands, folder)
    command = [os.environ["IMDSLET"], "migrate", "-f", "dump.yaml", f"--tenant-id={TENANT}",
               f"--issuer={t.cluster.entra.issuer}", "-o", "json"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def step(plan, name):
    """The commands of a step, as one script."""
    found = next((one for one in plan["steps"] if one["id"] == name), None)
    assert found, f"no step {name} among {[one['id'] for one in plan['steps']]}"
    return "\n".join(found["commands"])


def carry_out(t, plan, namespaces):
    """Has the emulator trust what the plan says must exist, for these namespaces, exactly as it says it."""
    of_ours = lambda one: one["subject"].split(":")[2] in namespaces
    credentials = [one for one in plan["federatedCredentials"] if of_ours(one)]
    entra = t.cluster.entra
    entra.credentials += credentials
    entra.ask("PUT", "_emulator/config", entra.config())
    return credentials


def estate(t, namespace, client_id, labels=None, account="default"):
    """A namespace as aad-pod-identity leaves it: an identity, its binding, a Deployment."""
    t.make_namespace(labels, namespace)
    entra = t.cluster.entra
    if client_id not in entra.clients:
        entra.clients.append(client_id)
    t.identity("identity", client_id, namespace)
    t.bind(namespace, namespace=namespace)
    if account != "default":
        t.create("ServiceAccount", account, namespace=namespace)
    template = {
        "metadata": {"labels": {"app": "app", "aadpodidbinding": namespace}},
        "spec": {"containers": [container("loop")], "serviceAccountName": account,
                 "terminationGracePeriodSeconds": 2},
    }
    t.create("Deployment", "app", {"selector": {"matchLabels": {"app": "app"}}, "template": template}, namespace)
    t.cluster.wait_for_rollout("app", namespace)


def pods(t, namespace):
    found = t.api.list("Pod", namespace, labelSelector="app=app")
    return [one for one in found if "deletionTimestamp" not in one["metadata"]]


def has_sidecar(pod):
    return any(one["name"] == "imdslet" for one in pod["spec"].get("initContainers", []))


def everything(t, namespace):
    """What is in a namespace, with the version of each object: no write goes unseen."""
    kinds = ("Pod", "Deployment", "ServiceAccount", "AzureIdentity", "AzureIdentityBinding",
             "AzureAssignedIdentity")
    found = {kind: t.api.list(kind, namespace) for kind in kinds}
    events = t.api.list("Event", namespace)
    found["Event"] = [one for one in events if "imdslet" in json.dumps(one.get("source", {}))]
    return json.dumps(found, sort_keys=True)


@test
def the_plan_of_this_cluster_turns_every_failing_pod_green(t):
    folder = pathlib.Path(tempfile.mkdtemp())
    # Two accounts of one identity, and another identity.
    places = [(f"{t.namespace}-a", t.client_id, "default"), (f"{t.namespace}-b", t.client_id, "worker"),
              (f"{t.namespace}-c", t.other_client_id, "default")]
    for namespace, client_id, account in places:
        estate(t, namespace, client_id, account=account)
    names = {namespace: pods(t, namespace)[0]["metadata"]["name"] for namespace, _, _ in places}
    for namespace, name in names.items():
        answer = t.first_answer(name, namespace=namespace)
        assert answer["status"] in (400, 401, 403), answer
    made = plan(t, folder)
    credentials = carry_out(t, made, names)
    assert len(credentials) == 3, credentials
    given = lambda name, namespace: [one for one in t.answers(name, namespace=namespace) if one["status"] == 200]
    for namespace, name in names.items():
        t.eventually(f"a token in {namespace}", lambda: given(name, namespace), 60)
    shutil.rmtree(folder)


@test
def a_namespace_is_taken_over_and_given_back_and_another_one_is_not_touched(t):
    folder = pathlib.Path(tempfile.mkdtemp())
    first, other = f"{t.namespace}-a", f"{t.namespace}-b"
    # As it is before imdslet is installed.
    off = {"imdslet.dev/injection": "disabled"}
    estate(t, first, t.client_id, off)
    estate(t, other, t.other_client_id, off)
    made = plan(t, folder)
    carry_out(t, made, (first, other))
    shell(step(made, "hold-off"), folder)
    assert not any(has_sidecar(pod) for name in (first, other) for pod in pods(t, name))
    before = everything(t, other)
    assert '"Event": []' in before and '"AzureAssignedIdentity": []' in before, before

    shell(step(made, f"take-over/{first}"), folder)
    [pod] = t.eventually("one pod", lambda: len(pods(t, first)) == 1 and pods(t, first), 30)
    assert has_sidecar(pod), pod["spec"]
    t.verified(pod["metadata"]["name"], namespace=first)

    shell(step(made, f"give-back/{first}"), folder)
    # And once more as the guide has it.
    over, back = guide(a_namespace_is_taken_over_and_given_back_and_another_one_is_not_touched)
    shell(over, folder, NAMESPACE=first)
    assert all(has_sidecar(pod) for pod in pods(t, first))
    shell(back, folder, NAMESPACE=first)
    [pod] = t.eventually("one pod", lambda: len(pods(t, first)) == 1 and pods(t, first), 30)
    assert not has_sidecar(pod), pod["spec"]
    assert "imdslet.dev" not in json.dumps(pod), pod
    assigned = lambda: t.api.list("AzureAssignedIdentity", first)
    t.eventually("nothing is said to be assigned any more", lambda: not assigned(), 30)
    assert everything(t, other) == before
    shutil.rmtree(folder)


@test
def what_is_removed_at_last_is_all_but_the_custom_resources_and_a_backup_brings_them_back(t):
    folder = pathlib.Path(tempfile.mkdtemp())
    # The backup is of the whole cluster, and what is in a namespace on its way out cannot be applied.
    names = lambda: [one["metadata"]["name"] for one in t.api.list("Namespace")]
    others = lambda: [name for name in names() if name.startswith("e2e-") and name != t.namespace]
    t.eventually("the namespaces of earlier tests are gone", lambda: not others(), 180)
    estate(t, t.namespace, t.client_id)
    old_parts(t)
    made = plan(t, folder)
    carry_out(t, made, (t.namespace,))
    shell(step(made, "backup"), folder)
    shell(step(made, "remove-parts"), folder)
    shell(step(made, "remove-finalizers"), folder)
    assert not t.api.find("Deployment", t.namespace, "mic")
    held = [one for one in t.api.list("AzureAssignedIdentity", t.namespace) if one["metadata"].get("finalizers")]
    assert not held, held

    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    t.api.delete("AzureIdentity", t.namespace, "identity")
    shell("kubectl apply -f backup-identities.yaml", folder)
    assert t.api.get("AzureIdentity", t.namespace, "identity")["spec"]["clientID"] == t.client_id

    kept = lambda: [one["metadata"]["uid"] for kind in ("CustomResourceDefinition", "AzureIdentity",
                                                        "AzureIdentityBinding") for one in t.api.list(kind)]
    before = kept()
    shell(step(made, "uninstall"), folder)
    assert kept() == before, "custom resources are gone"
    assert not t.api.find("Namespace", None, SYSTEM)
    for kind in ("ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy"):
        left = [one["metadata"]["name"] for one in t.api.list(kind) if "imdslet" in one["metadata"]["name"]]
        assert not left, (kind, left)
    t.pod("without", namespace=t.namespace, label=t.namespace)
    assert not has_sidecar(t.api.get("Pod", t.namespace, "without"))

    (folder / "manifests").mkdir()
    things = {"apiVersion": "v1", "kind": "List", "items": t.cluster.manifest()}
    (folder / "manifests/install.yaml").write_text(json.dumps(things))
    shell(step(made, "install"), folder)
    t.cluster.wait_for_rollout("imdslet-webhook")
    for commands in guide(what_is_removed_at_last_is_all_but_the_custom_resources_and_a_backup_brings_them_back):
        shell(commands, folder)
    t.pod("with", namespace=t.namespace, label=t.namespace)
    t.verified("with")
    shutil.rmtree(folder)


@test
def the_commands_of_the_guides_run_in_a_cluster(t):
    t.bound()
    t.pod(containers=[container(securityContext=restricted())])
    t.verified()
    with tempfile.TemporaryDirectory() as folder:
        said = [shell(commands, folder, NAMESPACE=t.namespace, POD="app")
                for commands in guide(the_commands_of_the_guides_run_in_a_cluster)]
    assert any("imdslet-annotations" in text for text in said), said


def old_parts(t):
    """What aad-pod-identity leaves, without programs: nothing of it is to be had here."""
    image = "mcr.microsoft.com/oss/azure/aad-pod-identity/{}:v1.8.17"
    for kind, name in (("Deployment", "mic"), ("DaemonSet", "nmi")):
        template = {"metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": name, "image": image.format(name)}],
                             "nodeSelector": {"e2e/nowhere": "true"}}}
        spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
        t.create(kind, name, spec | ({"replicas": 0} if kind == "Deployment" else {}))
    metadata = {"name": "left", "namespace": t.namespace, "finalizers": [FINALIZER]}
    t.api.create({"apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureAssignedIdentity",
                  "metadata": metadata, "spec": {"pod": "gone", "podNamespace": t.namespace}})
