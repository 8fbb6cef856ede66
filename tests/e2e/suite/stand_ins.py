"""What stands in for services of Azure: servers of the tests on this machine, by the services' own names."""

import http.server
import json
import ssl
import subprocess
import threading


def openssl(*args):
    ended = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True)
    assert ended.returncode == 0, f"openssl {args[0]}: {ended.stderr}"


class Authority:
    """Signs for the names of the stand-ins, and for nobody else."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # Alone in a folder that pods may see: the keys are not in it.
        self.ca = folder / "public/ca.crt"
        self.ca.parent.mkdir(exist_ok=True)
        if not self.ca.exists():
            openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=stand-ins",
                    "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
                    "-keyout", folder / "ca.key", "-out", self.ca)

    def issue(self, *names):
        """A certificate for these names, and its key, as files."""
        certificate, key = (self.folder / f"{names[0]}.{end}" for end in ("crt", "key"))
        request, extensions = (self.folder / f"{names[0]}.{end}" for end in ("csr", "ext"))
        kinds = [f"IP:{name}" if name.replace(".", "").isdigit() else f"DNS:{name}" for name in names]
        extensions.write_text(f"subjectAltName={','.join(kinds)}\n")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={names[0]}", "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", extensions, "-out", certificate)
        return certificate, key


class Server:
    """Answers over TLS on a port of its own. `answer(method, path, headers, body)` gives status, headers and body."""

    def __init__(self, host, authority, names, answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Who keeps a connection open and says nothing is left alone no longer than this.
            timeout = 60

            def do_any(self):
                length = int(self.headers.get("Content-Length", 0))
                status, headers, body = answer(self.command, self.path, self.headers, self.rfile.read(length))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in map(str.lower, headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(*names))
        # Not at once: a client that fails to shake hands would keep the others from being accepted.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def as_json(status, thing, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json; charset=utf-8"} | headers, json.dumps(thing).encode()


def door(t, name, port, at=443):
    """The address inside of the cluster at which port `at` leads to `port` of this machine: a Service's."""
    spec = {"ports": [{"name": "door", "port": at, "protocol": "TCP"}]}
    service = t.create("Service", name, spec)
    t.create("EndpointSlice", name, labels={"kubernetes.io/service-name": name}, addressType="IPv4",
             endpoints=[{"addresses": [t.cluster.host]}], ports=[{"name": "door", "port": port, "protocol": "TCP"}])
    return service["spec"]["clusterIP"]
