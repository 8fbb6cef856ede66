"""What imdslet costs on a cluster, in seconds. `run --bench`; docs/performance.md has the figures."""

import os
import pathlib
import platform
import random
import statistics
import threading
import time

from harness import Context, container
from live_changes import held

STARTS = 20
CHANGES = 10
# The ends of the namespaces' names; the tests count from 1.
NUMBERS = iter(range(900, 1000))
IDENTITIES = "imdslet.dev/identities"


def start(t, name, opted_in):
    """Seconds from the creation of a pod to the first instruction of its application."""
    created = time.time()
    t.pod(name, opted_in=opted_in)
    seconds = t.started_at(name) - created
    t.api.delete("Pod", t.namespace, name, grace=0)
    return seconds


def starts(t):
    """Pods with and without the sidecar in turns, so that both meet the same machine."""
    t.bound()
    start(t, "warm", True)
    plain, injected = [], []
    for number in range(STARTS):
        plain.append(start(t, f"plain-{number}", False))
        injected.append(start(t, f"injected-{number}", True))
    return {"pod created → application starts, no sidecar": plain,
            "pod created → application starts, bound at admission": injected}


def late_bindings(t):
    """Pods that wait, each for its own binding."""
    t.make_namespace()
    t.cluster.entra.trust(t.client_id, t.namespace)
    t.identity()
    seconds = []
    for number in range(CHANGES):
        name = f"late-{number}"
        t.pod(name, name)
        t.eventually("the sidecar holds the pod", lambda: held(t, name), 30)
        # The probe asks every 2 s: the binding comes at any moment between.
        time.sleep(random.uniform(0, 2))
        bound = time.time()
        t.bind(name, name)
        seconds.append(t.started_at(name) - bound)
        t.api.delete("Pod", t.namespace, name, grace=0)
    return {"binding created → application starts": seconds}


class Annotation:
    """When a pod's annotation has changed, as a watch tells it."""

    def __init__(self, t):
        self.times, self.texts = [], []
        threading.Thread(target=self.follow, args=(t,), daemon=True).start()
        t.eventually("the watch has begun", lambda: self.texts, 20)

    def follow(self, t):
        for moment, _, pod in t.api.watch("Pod", t.namespace, 600):
            text = pod["metadata"].get("annotations", {}).get(IDENTITIES)
            if not self.texts or text != self.texts[-1]:
                self.texts.append(text)
                self.times.append(moment)


def revocations(t):
    """A binding comes and goes under a running pod, which asks every 50 ms."""
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    annotation = Annotation(t)

    def answered(status, since):
        moments = (one["at"] / 1000 for one in t.answers() if one["status"] == status)
        return next((moment for moment in moments if moment > since), None)

    def revoke():
        changes, gone = len(annotation.times), time.time()
        t.api.delete("AzureIdentityBinding", t.namespace, "binding")
        t.eventually("the annotation changes", lambda: len(annotation.times) > changes, 20)
        written = annotation.times[changes]
        refused = t.eventually("the sidecar refuses", lambda: answered(400, gone), 20)
        back = time.time()
        t.bind()
        t.eventually("the sidecar gives tokens again", lambda: answered(200, back), 20)
        return written - gone, max(0.0, refused - written)

    alone, hurried = [], []
    for _ in range(CHANGES):
        # The kubelet looks at its containers once a second, and between two changes of a pod it
        # waits for that: a change that follows another at once takes longer.
        time.sleep(random.uniform(1.5, 3))
        alone.append(revoke())
        hurried.append(revoke())
    return {"binding deleted → annotation written": [one[0] for one in alone + hurried],
            "annotation written → the sidecar refuses": [one[1] for one in alone],
            "the same, right after another change of the pod": [one[1] for one in hurried]}


def line(name, seconds):
    figures = (statistics.median(seconds), min(seconds), max(seconds))
    return f"| {name} | {len(seconds)} | " + " | ".join(f"{one:.2f}" for one in figures) + " |"


def processor():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    names = [one.partition(":")[2].strip() for one in text.splitlines() if one.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(cluster):
    """Prints a table in Markdown."""
    lines = []
    for part in (starts, late_bindings, revocations):
        context = Context(cluster, part.__name__, next(NUMBERS))
        try:
            lines += [line(name, seconds) for name, seconds in part(context).items()]
        finally:
            context.clean()
    load = os.getloadavg()
    print(f"\nKubernetes {os.environ['K8S_VERSION']}, one node, {os.cpu_count()} × {processor()}, "
          f"load {load[0]:.1f} at the end; etcd without fsync.\n")
    print("| what | times | median s | min | max |\n| --- | --- | --- | --- | --- |")
    print("\n".join(lines))
