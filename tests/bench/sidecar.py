"""Measures the sidecar. Called by `sidecar.sh`, which builds the programs, in a network of its own."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "clients/suite"))
from pod import Pod  # noqa: E402
from process import cpu, memory, table, until  # noqa: E402

SIDECAR, PLAIN = sys.argv[1:3]
VAULT = "https://vault.azure.net"
MANY = 100_000
ROUNDS = 3
STARTS = 20
AT_ONCE = 32
# Of the emulator, in turns with answers that are measured meanwhile.
HANGS = {"delay": "1m"}
FAILS = {"status": 503}


class Server:
    """A server with its address and its process."""

    def __init__(self, command, environment, log):
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.pid = self.process.pid

    def ask(self, address, request, count, clients):
        """Microseconds of the server's processor for each request."""
        before = cpu(self.pid)
        command = [PLAIN, "ask", address, request, str(count), str(clients)]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        return (cpu(self.pid) - before) / count * 1e6

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Sidecar(Server):
    """The sidecar with the arguments and the environment that `imdslet inject` gives it."""

    def __init__(self, pod):
        args = [re.sub("^--dir=.*", f"--dir={pod.volume}", arg) for arg in pod.container("imdslet")["args"]]
        self.port = next(int(arg.partition("=")[2]) for arg in args if arg.startswith("--port="))
        self.address = f"127.0.0.1:{self.port}"
        self.log = pod.folder / "sidecar.log"
        self.began = time.monotonic()
        with self.log.open("w") as log:
            super().__init__([SIDECAR, *args], pod.environment("imdslet"), log)

    def is_listening(self):
        assert self.process.poll() is None, f"the sidecar has ended: {self.log.read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def connect(self):
        until("it listens", self.is_listening, 10)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)


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
    request, body, floor_log = (pod.folder / name for name in ("request", "body", "floor.log"))
    with Sidecar(pod) as ours:
        connection = ours.connect()
        ready = memory(ours.pid)
        status, answer = get(connection, target(VAULT))
        assert status == 200, answer
        token = memory(ours.pid)
        body.write_bytes(answer)
        request.write_text(f"GET {target(VAULT)} HTTP/1.1\r\nHost: {ours.address}\r\nMetadata: true\r\n\r\n")
        with floor_log.open("w") as log, Server([PLAIN, "serve", body], {}, log) as floor:
            until("the floor listens", lambda: "\n" in floor_log.read_text(), 10)
            servers = {"ours": (ours, ours.address), "floor": (floor, floor_log.read_text().strip())}
            figures, filled = {}, {}
            for clients in (16, 1):
                # In turns, so that both meet the same machine.
                for _ in range(ROUNDS):
                    for name, (server, address) in servers.items():
                        used = server.ask(address, request, MANY, clients)
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
        rows.append((f"CPU of a held token, {clients} kept connection{'s' * (clients > 1)}", f"{mine:.1f} µs (floor: {least:.1f} µs)", ""))
        rows.append(("the same ÷ floor", f"{mine / least:.2f}", "1.3"))


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
    for word, faults in (("hangs", HANGS), ("fails", FAILS)):
        with Sidecar(pod) as server:
            connection = server.connect()
            status, answer = get(connection, target(VAULT))
            assert status == 200, answer
            misbehave(pod, faults)
            try:
                times = held_meanwhile(server, connection)
            finally:
                misbehave(pod, None)
        rows.append((f"held token while the fetch of another {word}, {len(times):,} times",
                     f"median {milliseconds(statistics.median(times))}, at most {milliseconds(max(times))}", "5 ms"))


def held_meanwhile(server, connection):
    """How long answers with a held token took until another resource had got none."""
    statuses = []
    other = threading.Thread(target=lambda: statuses.append(get(server.connect(), target("https://other.example"))[0]))
    other.start()
    times = []
    while other.is_alive():
        began = time.monotonic()
        status, answer = get(connection, target(VAULT))
        times.append(time.monotonic() - began)
        assert status == 200, answer
    assert statuses and statuses[0] >= 500, f"the other answer was not a failure: {statuses}"
    return times


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
            for part in (size, per_request, starts, while_others_wait, at_once):
                try:
                    part(pod, rows)
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    rows.append((part.__name__.replace("_", " "), f"not measured: {error}", ""))
                    failed = True
        finally:
            pod.close()
    print(f"load {os.getloadavg()[0]:.1f} at the end\n")
    table(rows)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
