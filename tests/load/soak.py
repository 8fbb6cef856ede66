"""Endurance of the sidecar and the webhook: called by `run`, in a network of its own.

    soak.py SIDECAR WEBHOOK MINUTES

Tokens live for a minute, and Entra ID fails every tenth call. Ends with 1 where a request failed while a
valid token existed, a token was given that had ended, an admission was not answered, or memory grew.
"""

import http.client
import json
import os
import pathlib
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/clients/suite"), str(ROOT / "tests/bench")]
from pod import NUMBERS, Pod, identity  # noqa: E402
from process import cpu, memory, table, until  # noqa: E402

SIDECAR, WEBHOOK = sys.argv[1:3]
SECONDS = 60 * float(sys.argv[3])
LIFETIME = {"tokenLifetime": "60s", "faults": {"status": 503, "share": 0.1}}
RESOURCES = ("https://vault.azure.net", "https://storage.azure.com", "https://database.windows.net/")
CLIENTS, PAUSE = 8, 0.05
SAMPLE = 5
# What an allocator may keep for itself, in MiB: RSS is flat if its median grows by no more.
FLAT = 0.25


class Counts:
    """What came of the requests of all clients."""

    def __init__(self):
        self.lock = threading.Lock()
        self.answers = self.waits = 0
        self.faults = []
        # When the last token of an identity and a resource ends.
        self.ends = {}

    def took(self, key, status, answer):
        now = time.time()
        with self.lock:
            self.answers += 1
            if status == 200:
                end = int(answer["expires_on"])
                if end <= now:
                    self.faults.append(f"a token of {key} that ended {now - end:.1f} s ago was given")
                self.ends[key] = max(end, self.ends.get(key, 0))
            elif now < self.ends.get(key, 0) - 1:
                self.faults.append(f"{key}: {status} while a token is valid for {self.ends[key] - now:.0f} s: {answer}")
            else:
                self.waits += 1


def application(address, number, counts, until_then):
    """Asks for one token after another over a connection that it keeps."""
    connection = http.client.HTTPConnection(address, timeout=30)
    names = list(NUMBERS)
    while time.monotonic() < until_then:
        name, resource = names[number % len(names)], RESOURCES[number % len(RESOURCES)]
        number += 1
        path = f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}&client_id={identity(name)['client_id']}"
        try:
            connection.request("GET", path, headers={"Metadata": "true"})
            answer = connection.getresponse()
            counts.took((name, resource), answer.status, json.loads(answer.read()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            counts.faults.append(f"{name}, {resource}: {error!r}")
            connection.close()
        time.sleep(PAUSE)


def admissions(address, ca, body, counts, until_then):
    """Asks as an API server does, over a connection that is made anew now and then."""
    host, _, port = address.rpartition(":")
    tls = ssl.create_default_context(cafile=ca)
    connection = None
    while time.monotonic() < until_then:
        try:
            if counts.answers % 50 == 0 or not connection:
                connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=tls)
            connection.request("POST", "/mutate", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            counts.answers += 1
            if answer.status != 200 or not said["response"]["allowed"] or "patch" not in said["response"]:
                counts.faults.append(f"admission: {answer.status} {said}")
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            counts.faults.append(f"admission: {error!r}")
            connection = None
        time.sleep(PAUSE)


def sidecar(pod):
    args = [re.sub("^--dir=.*", f"--dir={pod.volume}", arg) for arg in pod.container("imdslet")["args"]]
    log = (pod.folder / "sidecar.log").open("w")
    return subprocess.Popen([SIDECAR, *args], env=pod.environment("imdslet"), stdout=log, stderr=log)


def webhook(folder, pod):
    """Admission by a file; where it listens, and a review of a pod that is bound there."""
    manifests, log = folder / "objects.json", folder / "webhook.log"
    things = pod.objects["items"]
    manifests.write_text(json.dumps(pod.objects | {"items": [one for one in things if one["kind"] != "Pod"]}))
    command = [WEBHOOK, f"--manifests={manifests}", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0",
               f"--ca-out={folder / 'webhook.pem'}", "--tenant-id=contoso.example"]
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def listening():
        events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        return next((one["addr"] for one in events if one.get("message") == "listening" and one.get("server") == "admission"), None)

    request = {"uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "web",
               "resource": {"group": "", "version": "v1", "resource": "pods"},
               "object": next(one for one in things if one["kind"] == "Pod")}
    review = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
    return process, until("the webhook listens", listening, 60), review


def grown(samples):
    """The medians of the second and the last fifth, the first being the time to warm up."""
    fifth = len(samples) // 5
    return statistics.median(samples[fifth : 2 * fifth]), statistics.median(samples[-fifth:])


def main():
    with tempfile.TemporaryDirectory() as name:
        pod = Pod(pathlib.Path(name) / "pod", {})
        processes = {}
        try:
            pod.entra.ask("PUT", "_emulator/config", pod.entra.config() | LIFETIME)
            processes["sidecar"] = sidecar(pod)
            port = next(arg.partition("=")[2] for arg in pod.container("imdslet")["args"] if arg.startswith("--port="))
            until("the sidecar listens", lambda: "listening" in (pod.folder / "sidecar.log").read_text(), 30)
            processes["webhook"], address, review = webhook(pathlib.Path(name), pod)
            tokens, reviews = Counts(), Counts()
            end = time.monotonic() + SECONDS
            before = {name: cpu(one.pid) for name, one in processes.items()}
            threads = [threading.Thread(target=application, args=(f"127.0.0.1:{port}", n, tokens, end)) for n in range(CLIENTS)]
            threads.append(threading.Thread(target=admissions, args=(address, pathlib.Path(name) / "webhook.pem", review, reviews, end)))
            for thread in threads:
                thread.start()
            samples = {name: [] for name in processes}
            while time.monotonic() < end:
                time.sleep(SAMPLE)
                for name, process in processes.items():
                    assert process.poll() is None, f"the {name} has ended"
                    samples[name].append(memory(process.pid)["VmRSS"])
            for thread in threads:
                thread.join()
            used = {name: cpu(one.pid).since(before[name]) for name, one in processes.items()}
            calls = pod.entra.ask("GET", "_emulator/requests")
        finally:
            for process in processes.values():
                process.kill()
            pod.close()
    faults = tokens.faults + reviews.faults
    rows = [
        ("how long", f"{SECONDS / 60:.0f} min", ""),
        ("requests for tokens that live 60 s, every tenth call to Entra ID failing", f"{tokens.answers:,}", ""),
        ("of these, answered with an error while no token was held", f"{tokens.waits:,}", ""),
        ("admissions, every fiftieth over a new TLS connection", f"{reviews.answers:,}", ""),
        ("requests that failed while a valid token existed, tokens that had ended, admissions without a patch", str(len(faults)), "0"),
    ]
    for name, counts in (("sidecar", tokens), ("webhook", reviews)):
        first, last = grown(samples[name])
        if last - first > FLAT:
            faults.append(f"the {name} has grown by {last - first:.2f} MiB")
        rows.append((f"RSS of the {name}, after a fifth of the time → at the end", f"{first:.2f} → {last:.2f} MiB", f"grows by {FLAT} at most"))
        each = used[name].each(max(1, counts.answers))
        rows.append((f"CPU of the {name} for each request, TLS, refreshes and all", f"{each.all:.0f} µs, {each.kernel:.0f} of it the kernel's", ""))
    print(f"calls to the emulator: {json.dumps(calls)[:400]}\n", file=sys.stderr)
    table(rows)
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
