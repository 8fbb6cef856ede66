"""Endurance of the sidecar and the webhook: called by `run`, in a network of its own.

    soak.py SIDECAR PLAIN WEBHOOK LOAD MINUTES

Tokens live for a minute, and Entra ID fails every tenth call. Ends with 1 where a request failed while a
valid token existed, a token was given that had ended, an admission was not answered, or memory grew.
Beside each of the two a bare server of the same stack is asked as often: PLAIN answers the bytes of a token,
LOAD sends back what it is sent. What those cost, nobody can do without.
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

SIDECAR, PLAIN, WEBHOOK, LOAD = sys.argv[1:5]
SECONDS = 60 * float(sys.argv[5])
LIFETIME = {"tokenLifetime": "60s", "faults": {"status": 503, "share": 0.1}}
RESOURCES = ("https://vault.azure.net", "https://storage.azure.com", "https://database.windows.net/")
CLIENTS, PAUSE = 8, 0.05
# How many requests an admission connection has.
KEPT = 50
# As install.yaml has it.
ALLOCATOR = {"MIMALLOC_PURGE_DELAY": "0"}
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


def path_of(name, resource):
    return f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}&client_id={identity(name)['client_id']}"


def application(address, number, counts, until_then):
    """Asks for one token after another over a connection that it keeps."""
    connection = http.client.HTTPConnection(address, timeout=30)
    names = list(NUMBERS)
    while time.monotonic() < until_then:
        name, resource = names[number % len(names)], RESOURCES[number % len(RESOURCES)]
        number += 1
        try:
            connection.request("GET", path_of(name, resource), headers={"Metadata": "true"})
            answer = connection.getresponse()
            counts.took((name, resource), answer.status, json.loads(answer.read()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            counts.faults.append(f"{name}, {resource}: {error!r}")
            connection.close()
        time.sleep(PAUSE)


def floor(address, counts, until_then):
    """As `application`, of whoever answers anything with the same token."""
    connection = http.client.HTTPConnection(address, timeout=30)
    while time.monotonic() < until_then:
        try:
            connection.request("GET", path_of("first", RESOURCES[0]), headers={"Metadata": "true"})
            answer = connection.getresponse()
            answer.read()
            with counts.lock:
                counts.answers += 1
            if answer.status != 200:
                counts.faults.append(f"the bare token server: {answer.status}")
        except (OSError, http.client.HTTPException) as error:
            counts.faults.append(f"the bare token server: {error!r}")
            connection.close()
        time.sleep(PAUSE)


def admissions(address, ca, body, is_right, counts, until_then):
    """Asks as an API server does, over a connection that is made anew now and then."""
    host, _, port = address.rpartition(":")
    tls = ssl.create_default_context(cafile=ca)
    connection, asked = None, 0
    while time.monotonic() < until_then:
        try:
            if asked % KEPT == 0 or not connection:
                connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=tls)
            asked += 1
            connection.request("POST", "/mutate", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            counts.answers += 1
            if answer.status != 200 or not is_right(said):
                counts.faults.append(f"admission: {answer.status} {said}")
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            counts.faults.append(f"admission: {error!r}")
            connection = None
        time.sleep(PAUSE)


def is_patched(review):
    return review["response"]["allowed"] and "patch" in review["response"]


def sidecar(pod):
    args = [re.sub("^--dir=.*", f"--dir={pod.volume}", arg) for arg in pod.container("imdslet")["args"]]
    log = (pod.folder / "sidecar.log").open("w")
    return subprocess.Popen([SIDECAR, *args], env=pod.environment("imdslet"), stdout=log, stderr=log)


def bare(folder, name, command):
    """A server whose first line is its address."""
    out = folder / f"{name}.log"
    with out.open("w") as log, (folder / f"{name}.err").open("w") as errors:
        process = subprocess.Popen(command, env=os.environ | ALLOCATOR, stdout=log, stderr=errors)
    until(f"the {name} listens", lambda: "\n" in out.read_text(), 30)
    return process, out.read_text().strip()


def webhook(folder, pod):
    """Admission by a file; where it listens, and a review of a pod that is bound there."""
    manifests, log = folder / "objects.json", folder / "webhook.log"
    things = pod.objects["items"]
    manifests.write_text(json.dumps(pod.objects | {"items": [one for one in things if one["kind"] != "Pod"]}))
    command = [WEBHOOK, f"--manifests={manifests}", "--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0",
               f"--ca-out={folder / 'webhook.pem'}", "--tenant-id=contoso.example"]
    process = subprocess.Popen(command, env=os.environ | ALLOCATOR, stdout=log.open("w"), stderr=subprocess.STDOUT)

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


def one_token(port):
    """The bytes of an answer, once there is one."""
    def asked():
        connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=30)
        connection.request("GET", path_of("first", RESOURCES[0]), headers={"Metadata": "true"})
        answer = connection.getresponse()
        body = answer.read()
        return body if answer.status == 200 else None
    return until("a first token comes", asked, 30)


def endure(folder, pod, processes, counts):
    """Asks all of `processes`, which it starts, for as long as it is to take: the samples of their memory, and what they had of
    the processor."""
    pod.entra.ask("PUT", "_emulator/config", pod.entra.config() | LIFETIME)
    processes["sidecar"] = sidecar(pod)
    port = next(arg.partition("=")[2] for arg in pod.container("imdslet")["args"] if arg.startswith("--port="))
    until("the sidecar listens", lambda: "listening" in (pod.folder / "sidecar.log").read_text(), 30)
    body = folder / "token.json"
    body.write_bytes(one_token(port))
    processes["bare token server"], plain = bare(folder, "plain", [PLAIN, "serve", body])
    processes["webhook"], address, review = webhook(folder, pod)
    processes["echo"], echo = bare(folder, "echo", [LOAD, "echo", folder / "echo.pem"])
    end = time.monotonic() + SECONDS
    before = {name: cpu(one.pid) for name, one in processes.items()}
    calls = [(application, (f"127.0.0.1:{port}", number, counts["sidecar"], end)) for number in range(CLIENTS)]
    calls += [(floor, (plain, counts["bare token server"], end))] * CLIENTS
    calls.append((admissions, (address, folder / "webhook.pem", review, is_patched, counts["webhook"], end)))
    calls.append((admissions, (echo, folder / "echo.pem", review, lambda said: "request" in said, counts["echo"], end)))
    threads = [threading.Thread(target=target, args=args) for target, args in calls]
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
    return samples, {name: cpu(one.pid).since(before[name]) for name, one in processes.items()}


def main():
    processes, counts = {}, {name: Counts() for name in ("sidecar", "bare token server", "webhook", "echo")}
    with tempfile.TemporaryDirectory() as name:
        pod = Pod(pathlib.Path(name) / "pod", {})
        try:
            samples, used = endure(pathlib.Path(name), pod, processes, counts)
            calls = pod.entra.ask("GET", "_emulator/requests")["tokenCalls"]
        finally:
            for process in processes.values():
                process.kill()
            pod.close()
    faults = [fault for one in counts.values() for fault in one.faults]
    tokens, reviews = counts["sidecar"], counts["webhook"]
    rows = [
        ("how long", f"{SECONDS / 60:.0f} min", ""),
        ("requests for tokens that live 60 s, every tenth call to Entra ID failing", f"{tokens.answers:,}", ""),
        ("of these, answered with an error while no token was held", f"{tokens.waits:,}", ""),
        ("calls to Entra ID", f"{calls:,}", ""),
        (f"admissions, {KEPT} over each TLS connection", f"{reviews.answers:,}", ""),
        ("requests that failed while a valid token existed, tokens that had ended, admissions without a patch", str(len(faults)), "0"),
    ]
    for name, least, work in (("sidecar", "bare token server", "request, TLS, refreshes"), ("webhook", "echo", "admission, TLS")):
        first, last = grown(samples[name])
        if last - first > FLAT:
            faults.append(f"the {name} has grown by {last - first:.2f} MiB")
        of = "{:.2f} → {:.2f} MiB".format
        rows.append((f"RSS of the {name}, after a fifth of the time → at the end", f"{of(first, last)} ({least}: {of(*grown(samples[least]))})", f"grows by {FLAT} at most"))
        each = {name: used[name].each(max(1, counts[name].answers)) for name in (name, least)}
        of = lambda figure: f"{figure.all:.0f} µs, {figure.kernel:.0f} of it the kernel's"
        rows.append((f"CPU of the {name} for each {work} and being woken up", f"{of(each[name])} ({least}: {of(each[least])})", ""))
    print(f"load {os.getloadavg()[0]:.1f} at the end\n")
    table(rows)
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
