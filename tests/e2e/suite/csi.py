"""Secrets Store volumes: the classes that take the place of those that ask NMI.

Only the driver's CRD is there, with the names of the real one; its programs are not.
"""

import contextlib
import json

from cluster import ROOT
from harness import SYSTEM, container, heavy, test
from kube import Refused

GROUP = "secrets-store.csi.x-k8s.io"
DRIVER = "secrets-store.csi.k8s.io"
CLASS = "SecretProviderClass"
AUDIENCE = "api://AzureADTokenExchange"
CONTROLLER = f"system:serviceaccount:{SYSTEM}:imdslet-controller"


def definition():
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": CLASS, "listKind": f"{CLASS}List", "plural": "secretproviderclasses",
             "singular": "secretproviderclass"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"secretproviderclasses.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


@contextlib.contextmanager
def secrets_store(t):
    """The driver's CRD and manifests/csi.yaml, which come while imdslet runs."""
    rights = t.cluster.read(ROOT / "manifests/csi.yaml")
    done = t.cluster.apply(rights, check=False)
    assert done.returncode == 0 and not done.stderr, f"csi.yaml: {done.stderr}"
    driver = {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
              "spec": {"podInfoOnMount": True, "attachRequired": False, "volumeLifecycleModes": ["Ephemeral"]}}
    t.api.create(driver)
    t.api.create(definition())
    try:
        def served():
            with contextlib.suppress(Refused):
                return t.api.list(CLASS) is not None

        t.eventually("the classes are served", served, 30)
        yield
    finally:
        crd = definition()["metadata"]["name"]
        t.api.delete("CustomResourceDefinition", None, crd)
        t.api.delete("CSIDriver", None, DRIVER)
        for thing in rights:
            t.api.delete(thing["kind"], None, thing["metadata"]["name"])
        # Whoever comes next makes it anew.
        t.eventually("the CRD is gone", lambda: t.api.find("CustomResourceDefinition", None, crd) is None, 60)


def make_class(t, name="kv", **parameters):
    parameters = {"usePodIdentity": "true", "keyvaultName": "v", "tenantId": "t", "objects": "array: []\n"} | parameters
    t.create(CLASS, name, {"provider": "azure", "parameters": parameters}, labels={"team": "a"})


def derived_of(t, name="kv"):
    """The classes of ours that stand for one, and for this test's pods.

    A namespace of an earlier test that is on its way out may still bind a label of its own.
    """
    of = lambda one: one["metadata"].get("annotations", {})
    wanted = {"imdslet.dev/secret-provider-class": name, "imdslet.dev/selector": t.label}
    return [one for one in t.api.list(CLASS, t.namespace) if wanted.items() <= of(one).items()]


def secrets(name):
    """A Secrets Store volume of this class."""
    attributes = {"secretProviderClass": name}
    return {"name": "secrets", "csi": {"driver": DRIVER, "readOnly": True, "volumeAttributes": attributes}}


def admitted(t, name="kv"):
    """The class that a pod's volume names once it is admitted, and the warnings. Nothing is created."""
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "dry", "namespace": t.namespace, "labels": {"aadpodidbinding": t.label}},
        "spec": {"containers": [container()], "volumes": [secrets(name)]},
    }
    with t.api.open("POST", t.api.path("Pod", t.namespace, dryRun="All"), body=pod) as answer:
        spec, warnings = json.load(answer)["spec"], answer.headers.get_all("Warning") or []
    volumes = [one for one in spec["volumes"] if one["name"] == "secrets"]
    return volumes[0]["csi"]["volumeAttributes"]["secretProviderClass"], warnings


def is_known(t, original, derived):
    """Waits until pods of the class are pointed to the derived one by each replica, which looks for both itself."""
    always = lambda: all(admitted(t, original)[0] == derived for _ in range(8))
    t.eventually("a pod's volume names the derived class", always, 30)


@test
def a_volume_whose_class_asks_nmi_gets_a_class_that_follows_its_original_and_its_binding(t):
    t.bound()
    with secrets_store(t):
        make_class(t)
        found = t.eventually("the class is made ahead of any pod", lambda: derived_of(t), 60)
        assert len(found) == 1, found
        made = found[0]
        name, uid = made["metadata"]["name"], t.api.get(CLASS, t.namespace, "kv")["metadata"]["uid"]
        assert name.startswith("kv.imdslet."), made
        assert made["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "imdslet"}, made
        assert [one["uid"] for one in made["metadata"]["ownerReferences"]] == [uid], made
        assert made["spec"]["parameters"] == {
            "clientID": t.client_id, "keyvaultName": "v", "tenantId": "t", "objects": "array: []\n"}, made

        is_known(t, "kv", name)
        assert admitted(t, name)[0] == name, "and stays when it does already"
        events = lambda: t.api.list("Event", SYSTEM, fieldSelector="involvedObject.name=imdslet-controller")
        missing = lambda: [one for one in events() if one["reason"] == "NoTokenRequest"]
        assert AUDIENCE in t.eventually("what the driver lacks is told", missing, 30)[0]["message"]
        # As the message says it.
        t.api.patch("CSIDriver", None, DRIVER, {"spec": {"tokenRequests": [{"audience": AUDIENCE}]}})

        t.api.patch(CLASS, t.namespace, "kv", {"spec": {"parameters": {"keyvaultName": "other"}}})
        parameters = lambda: t.api.get(CLASS, t.namespace, name)["spec"]["parameters"]
        t.eventually("it follows its original", lambda: parameters()["keyvaultName"] == "other", 20)
        other = t.other_client_id
        t.identity("other", other)
        t.api.patch("AzureIdentityBinding", t.namespace, "binding", {"spec": {"azureIdentity": "other"}})
        t.eventually("it follows the binding", lambda: parameters()["clientID"] == other, 20)
        t.api.patch(CLASS, t.namespace, name, {"spec": {"parameters": {"clientID": t.client_id}}})
        t.eventually("it is set right", lambda: parameters()["clientID"] == other, 20)

        # A pod that names it, though nothing will ever mount it.
        t.pod(volumes=[secrets("kv")])
        t.api.delete("AzureIdentityBinding", t.namespace, "binding")
        t.eventually("it gives nothing any more", lambda: "clientID" not in parameters(), 20)
        t.api.delete("Pod", t.namespace, "app", grace=0)
        t.eventually("it goes once nobody uses it", lambda: not derived_of(t), 60)
        assert t.api.get(CLASS, t.namespace, "kv")["metadata"]["labels"] == {"team": "a"}


@test
def a_class_that_imdslet_has_not_made_is_never_touched(t):
    t.bound()
    with secrets_store(t):
        make_class(t)
        name = t.eventually("the class is made", lambda: derived_of(t), 60)[0]["metadata"]["name"]
        # Whoever takes the label off has it.
        t.api.patch(CLASS, t.namespace, name, {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}},
                                               "spec": {"parameters": {"clientID": "theirs"}}})

        def told():
            events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=kv")
            return [one for one in events if one["reason"] == "ClassNameTaken"]

        assert name in t.eventually("its original is told of", told, 30)[0]["message"]

        def left():
            # A replica that has not heard of classes yet leaves it too, and says nothing.
            volume, warnings = admitted(t)
            return volume == "kv" and any(name in warning for warning in warnings)

        t.eventually("no pod is pointed to it, and whoever makes one is told", left, 20)
        theirs = t.api.get(CLASS, t.namespace, name)
        assert theirs["spec"]["parameters"]["clientID"] == "theirs", theirs

        # Nor could the controller, whatever went wrong with it.
        ours = "imdslet may only"
        for change in (
            lambda: t.api.delete(CLASS, t.namespace, "kv", user=CONTROLLER),
            lambda: t.api.delete(CLASS, t.namespace, name, user=CONTROLLER),
            lambda: t.api.json("PUT", t.api.path(CLASS, t.namespace, name), body=theirs, user=CONTROLLER),
            lambda: t.api.create({"apiVersion": f"{GROUP}/v1", "kind": CLASS, "spec": {},
                                  "metadata": {"name": "new", "namespace": t.namespace}}, user=CONTROLLER),
        ):
            assert t.cluster.is_denied(change, ours)


@heavy
def a_pod_that_came_before_its_class_is_told_to_be_created_anew(t):
    t.make_namespace()
    with secrets_store(t):
        make_class(t)
        warned = lambda: any("usePodIdentity" in warning for warning in admitted(t)[1])
        t.eventually("whoever makes a pod is warned", warned, 30)
        # The kubelet waits only for what a container mounts.
        mount = {"name": "secrets", "mountPath": "/secrets"}
        t.pod(containers=[container(volumeMounts=[mount])], volumes=[secrets("kv")])
        t.identity()
        t.bind()
        name = t.eventually("the class is made", lambda: derived_of(t), 30)[0]["metadata"]["name"]

        def told():
            events = t.api.list("Event", t.namespace, fieldSelector="involvedObject.name=app")
            return [one for one in events if one["reason"] == "RecreateToInject"]

        assert name in t.eventually("the pod's events say what to do", told, 60)[0]["message"]
