"""What stands in for cert-manager, which is not run here, and the definitions of custom resources of others.

The definitions are the projects' own, from their Go modules. What cert-manager's controllers and its CA injector
write about the chart's objects is written when a test asks for it.
"""

import base64
import json
import pathlib
import subprocess

from harness import SYSTEM
from stand_ins import Authority

CERT_MANAGER = ("github.com/cert-manager/cert-manager@v1.18.2", "deploy/crds/crd-certificates.yaml", "deploy/crds/crd-issuers.yaml")
SERVICE_MONITOR = ("github.com/prometheus-operator/prometheus-operator@v0.85.0",
                   "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml")
ANNOTATION = "cert-manager.io/inject-ca-from"
CONFIGURATIONS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def definitions(cluster, module, *files):
    """The CustomResourceDefinitions in files of a Go module."""
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, cwd=cluster.folder)
    assert done.returncode == 0, f"{module} cannot be had: {done.stdout}{done.stderr}"
    folder = pathlib.Path(json.loads(done.stdout)["Dir"])
    things = [thing for file in files for thing in cluster.read(folder / file)]
    for thing in things:
        # Templates of their own chart.
        thing["metadata"] = {"name": thing["metadata"]["name"]}
    return things


def encoded(path):
    return base64.b64encode(pathlib.Path(path).read_bytes()).decode()


class CertManager:
    """Its CRDs, and who keeps the objects of them while it lasts."""

    def __init__(self, t):
        self.t, self.cluster = t, t.cluster
        self.authority = Authority(t.cluster.folder / "cert-manager")
        self.definitions = definitions(t.cluster, *CERT_MANAGER)
        self.secrets = []

    def __enter__(self):
        self.cluster.apply(self.definitions, "--server-side")
        for thing in self.definitions:
            self.cluster.run("wait", "--for=condition=Established", f"crd/{thing['metadata']['name']}")
        return self

    def __exit__(self, *_):
        self.cluster.remove(self.definitions)
        for name in self.secrets:
            if self.t.api.find("Secret", SYSTEM, name):
                self.t.api.delete("Secret", SYSTEM, name)

    def things(self, kind):
        found = json.loads(self.cluster.run("get", f"{kind}.cert-manager.io", f"--namespace={SYSTEM}", "--output=json"))
        return {thing["metadata"]["name"]: thing["spec"] for thing in found["items"]}

    def issue(self):
        """Makes the Secret of each Certificate anew, those of CAs but once; the certificate of the webhook, as a file."""
        issuers, certificates, leaf = self.things("issuers"), self.things("certificates").values(), None
        for spec in certificates:
            issuer = issuers[spec["issuerRef"]["name"]]
            if spec.get("isCA"):
                assert issuer == {"selfSigned": {}}, issuer
                self.write(spec["secretName"], self.authority.ca, self.authority.folder / "ca.key")
            else:
                assert issuer["ca"]["secretName"] in [one["secretName"] for one in certificates], issuer
                leaf, key = self.authority.issue(*spec["dnsNames"])
                self.write(spec["secretName"], leaf, key)
        return leaf

    def write(self, name, certificate, key):
        """A Secret as cert-manager writes it."""
        data = {"tls.crt": encoded(certificate), "tls.key": encoded(key), "ca.crt": encoded(self.authority.ca)}
        write_secret(self.cluster, name, "kubernetes.io/tls", data)
        self.secrets.append(name)

    def inject(self):
        """Writes the CA of the Certificate that a configuration names into each of its entries."""
        for kind in CONFIGURATIONS:
            thing = self.t.api.get(kind, None, "imdslet")
            namespace, _, name = thing["metadata"]["annotations"][ANNOTATION].partition("/")
            assert namespace == SYSTEM, namespace
            secret = self.t.api.get("Secret", namespace, self.things("certificates")[name]["secretName"])
            path = "/webhooks/{}/clientConfig/caBundle"
            change = [{"op": "add", "path": path.format(at), "value": secret["data"]["ca.crt"]} for at in range(len(thing["webhooks"]))]
            self.t.api.json("PATCH", self.t.api.path(kind, None, "imdslet"), body=change, content_type="application/json-patch+json")


def write_secret(cluster, name, kind, data):
    metadata = {"name": name, "namespace": SYSTEM}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}
    cluster.apply([secret], "--server-side", "--force-conflicts")


def shown(t, port=8443):
    """The certificates that the webhook's replicas show, as PEM."""
    found = set()
    for pod in t.cluster.pods_of("imdslet-webhook"):
        address = f"{pod['status']['podIP']}:{port}"
        command = ["nsenter", f"--net=/run/netns/{t.cluster.netns}", "openssl", "s_client", "-connect", address,
                   "-servername", f"imdslet-webhook.{SYSTEM}.svc"]
        said = subprocess.run(command, input="", capture_output=True, text=True, timeout=20).stdout
        found.add(pem(said))
    return found


def pem(text):
    """The first certificate in a text."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return begin + text.partition(begin)[2].partition(end)[0] + end
