"""A webhook of somebody else, on this machine: it adds a container to pods with `e2e: second`."""

import base64
import contextlib
import http.server
import json
import ssl
import subprocess
import threading

# They are called in the order of their names.
AFTER_OURS = "zz-e2e-second"


def certificate(folder, host):
    key, crt = folder / "second.key", folder / "second.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "1", "-subj", "/CN=e2e-second", "-addext", f"subjectAltName=IP:{host}",
         "-keyout", key, "-out", crt],
        check=True, capture_output=True)
    return key, crt


def handler(container, place):
    patch = json.dumps([{"op": "add", "path": place, "value": container}]).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = review["request"]
            spec = request["object"]["spec"]
            names = [one["name"] for one in spec.get("initContainers", []) + spec["containers"]]
            response = {"uid": request["uid"], "allowed": True}
            if container["name"] not in names:
                response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
            body = json.dumps(review | {"request": None, "response": response}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def second_webhook(cluster, container, name=AFTER_OURS, place="/spec/containers/-"):
    """While it lasts, such pods get `container` at that place of theirs."""
    key, crt = certificate(cluster.folder, cluster.host)
    server = http.server.ThreadingHTTPServer((cluster.host, 0), handler(container, place))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(crt, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = {
        "name": "second.e2e.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {
            "url": f"https://{cluster.host}:{server.server_port}/",
            "caBundle": base64.b64encode(crt.read_bytes()).decode(),
        },
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "objectSelector": {"matchLabels": {"e2e": "second"}},
    }
    cluster.api.create({
        "kind": "MutatingWebhookConfiguration", "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": name}, "webhooks": [entry],
    })
    try:
        yield
    finally:
        cluster.api.delete("MutatingWebhookConfiguration", None, name)
        server.shutdown()
        server.server_close()
