"""Article 4 on a real kubelet: Secrets Store volumes of classes that ask NMI.

The CSI driver and its provider for Azure cannot be had from a registry: ../csi-driver takes their place.
"""

import contextlib
import os
import subprocess
import time

from articles import manifests, of_kind
from cluster import ROOT
from csi import AUDIENCE, CLASS, DRIVER, derived_of, is_known, secrets_store
from entra import TENANT
from harness import heavy, test
from machine import TESTS, equip, install
from vault import rsa_key, vault

IMAGE = "imdslet-e2e-csi-driver:1"
POD = "busybox-secrets-store-inline-podid"
VOLUME = "/mnt/secrets-store"


def image():
    """The archive of the driver's image."""
    source = TESTS / "e2e/csi-driver"
    files = sorted([source / "go.mod", source / "go.sum", *source.glob("*.go")])

    def make(folder):
        build = ["go", "build", "-mod=readonly", "-trimpath", "-o", folder / "csi-driver", "."]
        install.run(*build, cwd=source, env=os.environ | {"CGO_ENABLED": "0"})
        install.run(ROOT / "manifests/image.py", f"--name=docker.io/library/{IMAGE}", "--user=0:0",
                    f"--out={folder}/image.tar", f"{folder}/csi-driver:/csi-driver")

    return install.cached("csi-driver", files, make) / "image.tar"


def driver_pod(t, namespace, store, kubelet, ca):
    """As the driver's DaemonSet has it: on the node's network, and with mounts that the kubelet sees."""
    args = [f"--node={t.cluster.netns}", f"--kubelet={kubelet}", f"--authority={t.cluster.entra.url}",
            f"--vault={t.cluster.host}:{store.port}", f"--ca={ca}"]
    shared = {"name": "kubelet", "mountPath": str(kubelet), "mountPropagation": "Bidirectional"}
    trusted = {"name": "ca", "mountPath": str(ca.parent), "readOnly": True}
    one = {"name": "driver", "image": IMAGE, "args": args, "securityContext": {"privileged": True},
           "volumeMounts": [shared, trusted]}
    folder = lambda name, path: {"name": name, "hostPath": {"path": str(path), "type": "Directory"}}
    volumes = [folder("kubelet", kubelet), folder("ca", ca.parent)]
    t.pod("driver", opted_in=False, containers=[one], namespace=namespace, volumes=volumes, hostNetwork=True)


@contextlib.contextmanager
def driver(t, store):
    """The driver on the node. The pods of the test end before it does, since it takes their volumes away."""
    t.cluster.load(image())
    namespace = t.make_namespace(name=f"{t.namespace}-driver")
    kubelet = t.cluster.state / "kubelet"
    ca = store.ca.parent / "csi-driver.pem"
    ca.write_text(store.ca.read_text() + t.cluster.entra.ca)
    rules = [{"apiGroups": ["secrets-store.csi.x-k8s.io"], "resources": ["secretproviderclasses"], "verbs": ["get"]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    group = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": namespace}}
    t.api.create(group | {"kind": "ClusterRole", "rules": rules})
    t.api.create(group | {"kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]})
    try:
        driver_pod(t, namespace, store, kubelet, ca)
        told = lambda: "registered" in t.api.logs(namespace, "driver", "driver")
        t.eventually("the kubelet has registered the driver", told, 60)
        yield
    finally:
        for pod in t.api.list("Pod", t.namespace):
            t.api.delete("Pod", t.namespace, pod["metadata"]["name"], grace=1)
        t.eventually("the pods' volumes are taken away", lambda: not t.api.list("Pod", t.namespace), 60)
        t.api.delete("Pod", namespace, "driver", grace=0)
        (kubelet / f"plugins_registry/{DRIVER}-reg.sock").unlink(missing_ok=True)
        for kind in ("ClusterRole", "ClusterRoleBinding"):
            t.api.delete(kind, None, namespace)


@contextlib.contextmanager
def article(t):
    """All of article 4 but its pod, which is given with the vault."""
    t.make_namespace()
    with contextlib.ExitStack() as open_things:
        open_things.enter_context(secrets_store(t))
        things, clients = manifests(t, "4-secrets-store-csi")
        store = open_things.enter_context(
            vault(t, "kvname", clients.values(), {"secret1": "what nobody knows"}, {"key1": rsa_key()}))
        open_things.enter_context(driver(t, store))
        pod = of_kind(things, "Pod")
        t.label = pod["metadata"]["labels"]["aadpodidbinding"]
        equip(pod["spec"])
        # Of the emulator, which has no other.
        of_kind(things, CLASS)["spec"]["parameters"]["tenantId"] = TENANT
        for thing in things:
            if thing is not pod:
                t.api.create(thing)
        made = t.eventually("the class is made", lambda: derived_of(t, "azure-kvname-podid"), 60)
        is_known(t, "azure-kvname-podid", made[0]["metadata"]["name"])
        yield store, pod, clients["kvidentity"]


def give_tokens(t):
    """As the driver's chart does it with `tokenRequests`."""
    change = {"tokenRequests": [{"audience": AUDIENCE}], "requiresRepublish": True}
    t.api.patch("CSIDriver", None, DRIVER, {"spec": change})


def read(t, file, pod=POD):
    """What a container finds in its volume, or None as long as it does not run."""
    command = [*t.cluster.kubectl, "--namespace", t.namespace, "exec", pod, "--container", "busybox", "--", "cat",
               f"{VOLUME}/{file}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def not_mounted(t, pod):
    """Why a pod's volume is not mounted, as `kubectl describe` shows it."""
    events = t.api.list("Event", t.namespace, fieldSelector=f"involvedObject.name={pod},reason=FailedMount")
    return "\n".join(event["message"] for event in events)


@test
def article_4_the_pod_finds_the_vaults_secret_and_key_in_its_volume(t):
    with article(t) as (store, pod, client_id):
        give_tokens(t)
        t.api.create(pod)
        t.eventually("the secret is mounted", lambda: read(t, "secret1") == "what nobody knows", 60)
        key = read(t, "key1")
        assert key.startswith("-----BEGIN PUBLIC KEY-----\n"), key
        assert {claims["appid"] for claims in store.taken} == {client_id}, store.taken
        shown = t.api.get("Pod", t.namespace, POD)["spec"]
        used = [one["csi"]["volumeAttributes"] for one in shown["volumes"] if "csi" in one]
        assert used[0]["secretProviderClass"].startswith("azure-kvname-podid.imdslet."), used


@heavy
def article_4_a_secret_that_changes_and_a_binding_that_goes_are_followed_by_the_next_rotation(t):
    with article(t) as (store, pod, _):
        give_tokens(t)
        t.api.create(pod)
        t.eventually("the secret is mounted", lambda: read(t, "secret1") == "what nobody knows", 60)
        store.secrets["secret1"] = "something new"
        started = time.monotonic()
        # The kubelet asks again when it looks at the pod again, once in 60 to 90 s.
        t.eventually("it is mounted anew", lambda: read(t, "secret1") == "something new", 150)
        t.note(f"a new secret is mounted after {time.monotonic() - started:.0f} s")
        for binding in t.api.list("AzureIdentityBinding", t.namespace):
            t.api.delete("AzureIdentityBinding", t.namespace, binding["metadata"]["name"])
        t.eventually("who lost its binding is refused", lambda: "clientID is not set" in not_mounted(t, POD), 150)
        assert read(t, "secret1") == "something new", "what is mounted stays"


@test
def article_4_without_imdslet_or_without_a_token_of_the_pod_nothing_is_mounted(t):
    with article(t) as (store, pod, _):
        foreign = {**pod, "metadata": {"name": "foreign", "namespace": t.namespace}}
        t.api.create(foreign)
        t.api.create(pod)
        refused = lambda name, *words: all(word in not_mounted(t, name) for word in words)
        t.eventually("who has no label asks NMI, which is not there",
                     lambda: refused("foreign", "localhost:2579", "connection refused"), 60)
        t.eventually("the driver has no token of the pod", lambda: refused(POD, "tokenRequests"), 60)
        assert not store.taken, store.taken
        give_tokens(t)
        t.eventually("the secret is mounted", lambda: read(t, "secret1") == "what nobody knows", 90)
        assert read(t, "secret1", "foreign") is None
