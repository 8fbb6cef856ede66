"""The source `managed`: the real sidecar asks what stands in for the node's metadata service, at its own address, and
never itself."""

import http.server
import json
import re
import subprocess
import threading
import time
import urllib.parse

from pod import PROGRAMS, identity, run

ADDRESS = "169.254.169.254"
VAULT = "https://vault.azure.net"


class Node:
    """Answers as Azure's metadata service does, and keeps what it was asked for."""

    def __init__(self):
        self.asked, self.answers = [], []
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                node.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, body = node.answers.pop(0)
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((ADDRESS, 80), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, value):
        expires_on = str(int(time.time()) + 3600)
        self.answers.append((200, {
            "access_token": value, "client_id": identity("first")["client_id"], "expires_in": "3599",
            "expires_on": expires_on, "ext_expires_in": "86399", "not_before": "1700000000", "resource": VAULT,
            "token_type": "Bearer"}))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Sidecar:
    """Another sidecar of the pod, whose identities have the source `managed`, with the very variables by which its
    own endpoint is found: a library of Azure's would follow them."""

    def __init__(self, pod):
        folder = pod.folder / "managed"
        folder.mkdir()
        told = json.loads(pod.spec["metadata"]["annotations"]["imdslet.dev/identities"])
        for one in told["identities"]:
            one["source"] = "managed"
        (folder / "identities.json").write_text(json.dumps(told))
        args = [re.sub("^--dir=.*", f"--dir={folder}", arg) for arg in pod.container("imdslet")["args"]]
        args = [re.sub("^--port=.*", "--port=2580", arg) for arg in args]
        ours = {name: value.replace(":2579", ":2580") for name, value in pod.environment("app").items()}
        assert ours["IDENTITY_ENDPOINT"] == "http://127.0.0.1:2580/msi/token", ours
        self.process = subprocess.Popen(
            [PROGRAMS / "imdslet-sidecar", *args], env=pod.environment("imdslet") | ours, text=True,
            stdout=subprocess.PIPE)
        while '"message":"listening"' not in self.process.stdout.readline():
            assert self.process.poll() is None, "the sidecar has ended"

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=10)


def the_nodes_service_is_asked_by_client_id_whatever_the_variables_say(pod):
    done = run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    assert done.returncode == 0, done.stderr
    node, sidecar = Node(), None
    try:
        sidecar = Sidecar(pod)
        ask = lambda resource: pod.ask(
            f"http://127.0.0.1:2580/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}",
            Metadata="true")
        node.token("h.n0de.s")
        for _ in range(2):
            status, body = ask(VAULT)
            assert status == 200 and body["access_token"] == "h.n0de.s", body
        path, headers = node.asked.pop()
        assert not node.asked, f"it asked more than once: {node.asked}"
        parts = urllib.parse.urlsplit(path)
        assert parts.path == "/metadata/identity/oauth2/token", path
        expected = {"api-version": "2018-02-01", "resource": VAULT, "client_id": identity("first")["client_id"]}
        assert dict(urllib.parse.parse_qsl(parts.query)) == expected, path
        assert headers["metadata"] == "true" and "x-identity-header" not in headers and "secret" not in headers, headers

        # What passes is asked again, and what does not is told with what mends it.
        node.answers.append((404, {"error": "invalid_request", "error_description": "Not ready"}))
        node.token("later")
        assert ask("https://graph.microsoft.com")[0] == 200 and len(node.asked) == 2, node.asked
        node.answers.append((400, {"error": "invalid_request", "error_description": "Identity not found"}))
        status, body = ask("https://storage.azure.com")
        assert status == 400 and "az vmss identity assign" in body["message"], body
    finally:
        if sidecar:
            sidecar.close()
        node.close()
        run("ip", "address", "del", f"{ADDRESS}/32", "dev", "lo")


TESTS = [the_nodes_service_is_asked_by_client_id_whatever_the_variables_say]
