"""Measures the sidecar. Called by `sidecar.sh`, which builds the programs, in a network of its own."""

import concurrent.futures
import http.client
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "clients/suite"))
from pod import Pod  # noqa: E402
from process import cpu, memory, table, until  # noqa: E402

SIDECAR, PLAIN = sys.argv[1:3]
VAULT = "https://vault.azure.net"
MANY = 100_000
ROUNDS = 3
COUNTED = 2_000
STARTS = 20
AT_ONCE = 32
# In seconds: no answer with a held token takes that long.
LATE = 0.005
# Of the emulator, and how many fetches meet it while answers are measured. A sidecar does not ask
# for ever new resources where 16 failed lately.
HANGS = ({"delay": "1m"}, 1)
FAILS = ({"status": 503}, 15)


class Server:
    """A server with its process, under a program that watches it where one is given."""

    def __init__(self, command, environment, log, under=(), errors=None):
        command, environment = [*under, *command], environment | {"PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(command, stdout=log, stderr=errors or log, env=environment)
        self.pid = self.process.pid

    def cpu_of(self, address, request, count, clients):
        """Microseconds of the server's processor for each request."""
        before = cpu(self.pid)
        ask(address, request, count, clients)
        return cpu(self.pid).since(before).each(count)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def ask(address, request, count, clients):
    command = [PLAIN, "ask", address, request, str(count), str(clients)]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)


class Sidecar(Server):
    """The sidecar with the arguments and the environment that `imdslet inject` gives it."""

    def __init__(self, pod, under=()):
        args = [re.sub("^--dir=.*", f"--dir={pod.volume}", arg) for arg in pod.container("imdslet")["args"]]
        self.port = next(int(arg.partition("=")[2]) for arg in args if arg.startswith("--port="))
        self.address = f"127.0.0.1:{self.port}"
        self.log = pod.folder / "sidecar.log"
        self.began = time.monotonic()
        with self.log.open("w") as log:
            super().__init__([SIDECAR, *args], pod.environment("imdslet"), log, under)

    def is_listening(self):
        assert self.process.poll() is None, f"the sidecar has ended: {self.log.read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self):
        until("it listens", self.is_listening, 30)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def fill(self):
        """Has it fetch the token that is asked for again and again; the answer, and a request for it."""
        status, answer = get(self.connect(), target(VAULT))
        assert status == 200, answer
        return answer, f"GET {target(VAULT)} HTTP/1.1\r\nHost: {self.address}\r\nMetadata: true\r\n\r\n"


class Floor(Server):
    """The simplest server: it answers whatever is asked with the file `body`."""

    def __init__(self, pod, body, under=()):
        out = pod.folder / "floor.log"
        with out.open("w") as log, (pod.folder / "floor.err").open("w") as errors:
            super().__init__([PLAIN, "serve", body], {}, log, under, errors)
        until("the floor listens", lambda: "\n" in out.read_text(), 30)
        self.address = out.read_text().strip()

    def connect(self):
        host, _, port = self.address.partition(":")
        return http.client.HTTPConnection(host, int(port), timeout=30)


def target(resource):
    return f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"


def get(connection, path):
    connection.request("GET", path, headers={"Metadata": "true"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def milliseconds(seconds):
    return f"{seconds * 1000:.1f} ms"


def size(_pod, rows):
    ours, floor = (os.stat(program).st_size for program in (SIDECAR, PLAIN))
    rows.append(("size of the static program", f"{ours:,} bytes (floor, with its load generator: {floor:,})", "3,500,000"))


def per_request(pod, rows):
    request, body = pod.folder / "request", pod.folder / "body"
    with Sidecar(pod) as ours:
        ours.connect()
        ready = memory(ours.pid)
        answer, text = ours.fill()
        token = memory(ours.pid)
        body.write_bytes(answer)
        request.write_text(text)
        with Floor(pod, body) as floor:
            servers = {"ours": ours, "floor": floor}
            figures, filled = {}, {}
            for clients in (16, 1):
                # In turns, so that both meet the same machine.
                for _ in range(ROUNDS):
                    for name, server in servers.items():
                        used = server.cpu_of(server.address, request, MANY, clients)
                        figures.setdefault((name, clients), []).append(used)
                        filled.setdefault(name, memory(server.pid))
    of = lambda figure: f"{figure['VmRSS']:.2f} MiB, {figure['RssAnon']:.2f} of it its own"
    rows += [
        ("RSS when it listens", of(ready), "3 MiB"),
        ("RSS after its first token", of(token), ""),
        (f"RSS after {MANY:,} requests over 16 connections", f"{of(filled['ours'])} (floor: {filled['floor']['VmRSS']:.2f} MiB)", "4 MiB"),
    ]
    for clients in (1, 16):
        # The least: what others do on the machine only adds to it.
        mine, least = (min(figures[name, clients]) for name in servers)
        of = lambda figure: f"{figure.all:.1f} µs, {figure.kernel:.1f} of it the kernel's"
        rows.append((f"CPU of a held token, {clients} kept connection{'s' * (clients > 1)}", f"{of(mine)} (floor: {of(least)})", ""))
        rows.append(("the same ÷ floor", f"{mine.all / least.all:.2f}", "1.3"))


def instructions(pod, rows):
    """What no other work on the machine changes."""
    what = "instructions of a held token, without the kernel's"
    if not shutil.which("valgrind"):
        rows.append((what, "not counted: valgrind is not installed", ""))
        return
    request, body = pod.folder / "request", pod.folder / "body"
    with Sidecar(pod, watched(pod, "ours")) as ours:
        answer, text = ours.fill()
        body.write_bytes(answer)
        request.write_text(text)
        mine = counted(pod, "ours", ours, request)
    with Floor(pod, body, watched(pod, "floor")) as floor:
        least = counted(pod, "floor", floor, request)
    rows.append((what, f"{mine:,.0f} (floor: {least:,.0f})", ""))


def watched(pod, name):
    return ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={pod.folder / name}.callgrind"]


def counted(pod, name, server, request):
    """Instructions of `server` for each request, once it has answered some."""
    ask(server.address, request, COUNTED // 10, 1)
    control = lambda flag: subprocess.run(["callgrind_control", flag, str(server.pid)], check=True, capture_output=True)
    control("--zero")
    ask(server.address, request, COUNTED, 1)
    control("--dump")
    dump = next(pod.folder.glob(f"{name}.callgrind.*"))
    return int(re.search(r"^summary: (\d+)", dump.read_text(), re.M)[1]) / COUNTED


def starts(pod, rows):
    for what, path, limit in (("exec → first answer", "/state", "10 ms"),
                              ("exec → first token, with its call to the emulator", target(VAULT), "")):
        times = []
        for _ in range(STARTS):
            with Sidecar(pod) as server:
                status, answer = get(server.connect(), path)
                assert status == 200, answer
                times.append(time.monotonic() - server.began)
        rows.append((f"{what}, median of {STARTS}", f"{milliseconds(statistics.median(times))} (to {milliseconds(max(times))})", limit))


def misbehave(pod, faults):
    pod.entra.ask("PUT", "_emulator/config", pod.entra.config() | ({"faults": faults} if faults else {}))


def while_others_wait(pod, rows):
    body = pod.folder / "body"
    for word, (faults, fetches) in (("hangs", HANGS), ("fails", FAILS)):
        with Sidecar(pod) as server:
            answer, _ = server.fill()
            body.write_bytes(answer)
            with Floor(pod, body) as floor:
                misbehave(pod, faults)
                try:
                    times, least = held_meanwhile(server, floor, fetches)
                finally:
                    misbehave(pod, None)
        late = lambda times: sum(time > LATE for time in times)
        of = lambda times: f"median {milliseconds(statistics.median(times))}, at most {milliseconds(max(times))}, later than 5 ms {late(times)}"
        rows.append((f"held token while the fetch of another {word}, {len(times):,} times", f"{of(times)} (floor: {of(least)})", "5 ms"))


def held_meanwhile(server, floor, fetches):
    """How long answers with a held token took until so many other resources had got none, and those
    of the floor in turns with them: what the machine adds to both is not the sidecar's."""
    others = [(server.connect(), target(f"https://other{number}.example")) for number in range(fetches)]
    ours, theirs = multiprocessing.Pipe()
    # A process, since a thread would hold Python's lock for up to 5 ms at a time.
    other = multiprocessing.Process(target=lambda: theirs.send([get(connection, path)[0] for connection, path in others]))
    asked = [(server.connect(), []), (floor.connect(), [])]
    other.start()
    while other.is_alive():
        for connection, times in asked:
            began = time.monotonic()
            status, answer = get(connection, target(VAULT))
            times.append(time.monotonic() - began)
            assert status == 200, answer
    statuses = ours.recv() if ours.poll() else []
    failed = len(statuses) == fetches and all(status >= 500 for status in statuses)
    assert failed, f"the other answers were not failures: {statuses}"
    return [times for _, times in asked]


def at_once(pod, rows):
    with Sidecar(pod) as server:
        connections = [server.connect() for _ in range(AT_ONCE)]
        for connection in connections:
            connection.connect()
        calls = lambda: pod.entra.ask("GET", "_emulator/requests")["tokenCalls"]
        # So slow that all have asked before the first is answered.
        misbehave(pod, {"delay": "500ms"})
        before = calls()
        try:
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(lambda connection: get(connection, target(VAULT)), connections))
        finally:
            misbehave(pod, None)
        assert {status for status, _ in answers} == {200}, answers
        assert len({json.loads(body)["access_token"] for _, body in answers}) == 1, "they got different tokens"
        rows.append((f"{AT_ONCE} who ask at once for a token that is not held: calls to Entra ID", str(calls() - before), "1"))


def main():
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as name:
        pod = Pod(pathlib.Path(name) / "pod", {})
        try:
            for part in (size, per_request, instructions, starts, while_others_wait, at_once):
                try:
                    part(pod, rows)
                except (AssertionError, OSError, StopIteration, subprocess.SubprocessError) as error:
                    rows.append((part.__name__.replace("_", " "), f"not measured: {error}", ""))
                    failed = True
        finally:
            pod.close()
    print(f"load {os.getloadavg()[0]:.1f} at the end\n")
    table(rows)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
