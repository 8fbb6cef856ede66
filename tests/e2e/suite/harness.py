"""What a test is given, and how tests are run."""

import contextlib
import inspect
import json
import pathlib
import time
import traceback

from entra import TENANT
from kube import Refused
from tokens import verify

SYSTEM = "imdslet-system"
CLIENT_IMAGE = "imdslet-e2e-client:1"
RESOURCE = "https://vault.azure.net"
TESTS = []
HEAVY = []
# What a test is the proof of, for the table at the end of a run.
SHOWS = {}


def test(function):
    """Marks a test. Its name is a sentence."""
    TESTS.append(function)
    return function


def heavy(function):
    """Marks a test that takes too long for every change: it runs with --full, or by its name."""
    HEAVY.append(function)
    return test(function)


def scenario(*numbers):
    """Which scenarios of aad-pod-identity's own end-to-end tests a test stands for: docs/compatibility.md lists them."""
    return shows(*(f"scenario {number}" for number in numbers))


def shows(*what):
    def mark(function):
        SHOWS[function] = ", ".join(what)
        return function

    return mark


def resource_id(name):
    """The id in Azure of an identity of the tests."""
    return (
        "/subscriptions/5b000000-0000-4000-8000-000000000000/resourcegroups/rg"
        f"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    )


def restricted():
    """What restricted Pod Security asks of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container(task="serve", name="app", **more):
    """A container of the tests' application; `task` as in client.rs."""
    return {"name": name, "image": CLIENT_IMAGE, "args": task.split(), **more}


class Context:
    """One test's namespace and what it may do."""

    def __init__(self, cluster, name, number):
        self.cluster = cluster
        self.api = cluster.api
        self.name = name
        self.namespace = f"e2e-{number}"
        # Of its own, since a pod may match the bindings of other tests' namespaces.
        self.label = f"label-{number}"
        self.client_id = f"c0000000-0000-4000-8000-{number:012}"
        # Of no identity unless the test makes one.
        self.other_client_id = f"c0000000-0000-4000-8001-{number:012}"
        self.notes = []
        self.namespaces = []
        self.started = time.time()

    def note(self, text):
        """A figure that was measured, printed with the result."""
        self.notes.append(text)

    def make_namespace(self, labels=None, name=None):
        name = name or self.namespace
        metadata = {"name": name, "labels": labels or {}}
        self.api.create({"kind": "Namespace", "apiVersion": "v1", "metadata": metadata})
        self.namespaces.append(name)
        account = lambda: self.api.find("ServiceAccount", name, "default")
        self.eventually("the service account `default`", account, 20)
        return name

    def create(self, kind, name, spec=None, namespace=None, labels=None, annotations=None, **more):
        group = self.api.path(kind).rpartition("/")[0].partition("/")[2]
        metadata = {"name": name, "namespace": namespace or self.namespace}
        metadata |= {"labels": labels} if labels else {}
        metadata |= {"annotations": annotations} if annotations else {}
        thing = {"kind": kind, "apiVersion": group, "metadata": metadata, **more}
        return self.api.create(thing | ({"spec": spec} if spec is not None else {}))

    def identity(self, name="identity", client_id=None, namespace=None, **spec):
        client_id = client_id or self.client_id
        spec = {"type": 0, "resourceID": resource_id(name), "clientID": client_id, **spec}
        self.create("AzureIdentity", name, spec, namespace)

    def bind(self, selector=None, name="binding", identity="identity", namespace=None):
        spec = {"azureIdentity": identity, "selector": selector or self.label}
        self.create("AzureIdentityBinding", name, spec, namespace)

    def bound(self, labels=None):
        """A namespace with an identity, bound to pods with `self.label`, that Entra ID trusts."""
        self.make_namespace(labels)
        self.cluster.entra.trust(self.client_id, self.namespace)
        self.identity()
        self.bind()

    def pod(self, name="app", label=None, opted_in=True, containers=None, namespace=None, labels=None,
            annotations=None, **spec):
        labels = (labels or {}) | ({"aadpodidbinding": label or self.label} if opted_in else {})
        spec = {"containers": containers or [container()], "terminationGracePeriodSeconds": 2, **spec}
        return self.create("Pod", name, spec, namespace, labels, annotations)

    def rehearsed(self, labels=None, annotations=None, namespace=None, **spec):
        """What a pod would become: a dry run."""
        metadata = {"name": "rehearsed", "namespace": namespace or self.namespace,
                    "annotations": annotations or {}, "labels": {"aadpodidbinding": self.label} | (labels or {})}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": [container()], **spec}}
        return self.api.json("POST", self.api.path("Pod", metadata["namespace"], dryRun="All"), body=pod)

    def eventually(self, what, condition, seconds=60):
        """Waits until `condition` gives something, which it returns."""
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.05)

    def lines(self, pod="app", container="app", namespace=None):
        """What the tests' application has told so far."""
        text = self.api.logs(namespace or self.namespace, pod, container)
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def answers(self, pod="app", container="app", namespace=None):
        return [line for line in self.lines(pod, container, namespace) if "status" in line]

    def first_answer(self, pod="app", container="app", namespace=None, seconds=60):
        found = lambda: self.answers(pod, container, namespace)
        return self.eventually(f"an answer to {pod}/{container}", found, seconds)[0]

    def verified(self, pod="app", container="app", namespace=None, client_id=None, proof="2"):
        """The claims of the first token that a container was given, verified."""
        answer = self.first_answer(pod, container, namespace)
        assert answer["status"] == 200, f"{pod}/{container} was answered {answer}"
        token = answer["body"]["access_token"]
        return verify(token, self.cluster.entra.keys(), TENANT, RESOURCE, client_id or self.client_id, proof)

    def answers_since(self, moment, pod="app", status=None):
        """Those that a container of this name got after a moment, in seconds since the Unix epoch, with this status alone."""
        return [one for one in self.answers(pod) if one["at"] > moment * 1000 and status in (None, one["status"])]

    def refused(self, pod="app", since=0.0):
        """The answers without a token, from a moment on."""
        return [one for one in self.answers_since(since, pod) if one["status"] != 200]

    def follows(self, client_id, pod="app", seconds=20, since=0.0):
        """Waits for a pod's first token of an identity; when it was asked for, in seconds since the Unix epoch."""
        found = lambda: [one for one in self.answers_since(since, pod, 200) if one["body"]["client_id"] == client_id]
        return self.eventually(f"{pod} has a token of {client_id}", found, seconds)[0]["at"] / 1000

    def processes(self, container="app", pod="app", namespace=None):
        """The processes of a container, by their numbers on this machine."""
        def number():
            status = self.api.get("Pod", namespace or self.namespace, pod)["status"]
            statuses = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
            ids = (one.get("containerID", "") for one in statuses if one["name"] == container)
            return next(ids, "").rpartition("/")[2]

        # Its own words are here before the kubelet has told its id.
        inside = self.eventually(f"{pod}/{container} has an id", number, 20)

        def is_inside(process):
            with contextlib.suppress(OSError):
                return inside in (process / "cgroup").read_text()

        return [int(one.name) for one in pathlib.Path("/proc").glob("[0-9]*") if is_inside(one)]

    def started_at(self, pod="app", container="app", seconds=60):
        """When a container printed its first line, in seconds since the Unix epoch."""
        lines = self.eventually(f"{pod}/{container} starts", lambda: self.lines(pod, container), seconds)
        return lines[0]["at"] / 1000

    def save(self, folder):
        """Keeps what may tell why the test failed."""
        folder.mkdir(parents=True, exist_ok=True)
        for namespace in [*self.namespaces, SYSTEM]:
            for kind in ("Pod", "Event", "AzureIdentity", "AzureIdentityBinding"):
                with contextlib.suppress(Refused):
                    things = self.api.list(kind, namespace)
                    (folder / f"{namespace}-{kind}.json").write_text(json.dumps(things, indent=1))
            for pod in self.api.list("Pod", namespace):
                spec, name = pod["spec"], pod["metadata"]["name"]
                for one in spec.get("initContainers", []) + spec["containers"]:
                    log = self.api.logs(namespace, name, one["name"])
                    (folder / f"{namespace}-{name}-{one['name']}.log").write_text(log)

    def clean(self):
        for namespace in self.namespaces:
            self.api.delete("Namespace", None, namespace)


def sentence(function):
    return function.__name__.replace("_", " ")


class Result:
    """What became of a test."""

    def __init__(self, function, context, verdict):
        self.function, self.notes, self.verdict = function, context.notes, verdict
        self.seconds = time.time() - context.started
        self.module = inspect.getmodule(function).__name__

    def line(self):
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{self.verdict:6} {self.module}: {sentence(self.function)} ({self.seconds:.1f} s{notes})"

    def row(self):
        shown = SHOWS.get(self.function, "")
        return f"| {shown} | {self.module}: {self.function.__name__} | {self.verdict} | {self.seconds:.1f} |"


def table(results):
    """All results, in Markdown."""
    head = ["| shows | test | result | s |", "| --- | --- | --- | --- |"]
    return "\n".join(head + [result.row() for result in results])


def keep(context, error, folder):
    """Prints why a test failed, and keeps what may tell more."""
    text = "".join(traceback.format_exception(error))
    print("\n".join(text.splitlines()[-3:]) if isinstance(error, AssertionError) else text, flush=True)
    try:
        context.save(folder)
        (folder / "error.txt").write_text(text)
        print(f"  logs: {folder}", flush=True)
    except Exception as error:
        print(f"  logs could not be kept: {error}", flush=True)


def run(cluster, only, full, logs):
    """Runs the tests one after another; yields what became of each."""
    is_chosen = lambda one: any(word in one.__name__ for word in only) if only else full or one not in HEAVY
    for number, function in enumerate(TESTS):
        if not is_chosen(function):
            continue
        context = Context(cluster, function.__name__, number + 1)
        verdict = "ok"
        try:
            function(context)
        except Exception as error:  # A test may fail in any way; the next one is to run.
            verdict = "FAILED"
            keep(context, error, logs / function.__name__)
        result = Result(function, context, verdict)
        print(result.line(), flush=True)
        yield result
        try:
            context.clean()
        except Exception as error:
            print(f"  not cleaned up: {error}", flush=True)
