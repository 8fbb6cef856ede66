"""What imdslet costs on a cluster, in seconds. `run --bench`; docs/performance.md has the figures."""

import concurrent.futures
import os
import pathlib
import platform
import random
import statistics
import threading
import time

from harness import Context, container
from live_changes import held
from scenarios import another

STARTS = 20
CHANGES = 10
CROWD = 100
# Who creates the crowd, and how long it may take.
WORKERS = 4
LONGEST = 300
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


def edits(t):
    """The client id of a running pod's identity is another one, time and again."""
    t.bound()
    other = another(t, 2)
    t.cluster.entra.trust(other, t.namespace)
    t.pod(containers=[container("loop")])
    t.verified()
    seconds = []
    for number in range(CHANGES):
        client_id = (other, t.client_id)[number % 2]
        time.sleep(random.uniform(1.5, 3))
        t.api.patch("AzureIdentity", t.namespace, "identity", {"spec": {"clientID": client_id}})
        changed = time.time()
        seconds.append(t.follows(client_id, since=changed) - changed)
    return {"identity edited → the next token is the new one": seconds}


def crowd(t, name, opted_in):
    """Many pods at once: when the application of each had started, and when it had its answer."""
    pods = [f"{name}-{number}" for number in range(CROWD)]
    began = time.time()
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda pod: t.pod(pod, opted_in=opted_in), pods))
    started = [t.started_at(pod, seconds=LONGEST) - began for pod in pods]
    answers = [t.first_answer(pod) for pod in pods]
    if opted_in:
        for pod in pods:
            t.verified(pod)
    return started, [(one["at"] + one.get("after", 0)) / 1000 - began for one in answers]


def crowds(t):
    """As many pods at once, first without sidecars, then with them: each of these has a token that verifies."""
    t.bound()
    found = {}
    for name, opted_in in (("plain", False), ("injected", True)):
        found[name] = crowd(t, name, opted_in)
        if opted_in:
            print(memory(t.cluster), flush=True)
        for number in range(CROWD):
            t.api.delete("Pod", t.namespace, f"{name}-{number}", grace=0)
        t.eventually("they are gone", lambda: not t.api.list("Pod", t.namespace), LONGEST)
    return {f"{CROWD} pods at once → each application starts, no sidecar": found["plain"][0],
            "the same, with sidecars": found["injected"][0],
            f"{CROWD} pods at once → each has its token": found["injected"][1]}


def memory(cluster):
    """What all sidecars of the node have in memory, as a sentence."""
    totals = dict.fromkeys(("Rss", "Pss", "Private_Dirty"), 0)
    processes = [one for one in pathlib.Path("/proc").glob("[0-9]*") if is_sidecar(one, cluster)]
    for process in processes:
        for line in (process / "smaps_rollup").read_text().splitlines()[1:]:
            key, _, amount = line.partition(":")
            if key in totals:
                totals[key] += int(amount.split()[0])
    rss, pss, own = (f"{kilobytes / 1024:.1f} MiB" for kilobytes in totals.values())
    return f"{len(processes)} sidecars have an RSS of {rss} together, a PSS of {pss}, and {own} of their own (Private_Dirty)"


def is_sidecar(process, cluster):
    try:
        text = (process / "cgroup").read_text()
        return (process / "comm").read_text() == "imdslet-sidecar\n" and f"/{cluster.netns}/" in text
    except OSError:
        return False


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


def measure(cluster, words):
    """Prints a table in Markdown: of all parts, or of those that have a word in their name."""
    lines = []
    for part in (starts, late_bindings, revocations, edits, crowds):
        if words and not any(word in part.__name__ for word in words):
            continue
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
