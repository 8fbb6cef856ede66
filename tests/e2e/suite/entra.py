"""The stand-in for Entra ID: `imdslet emulate entra`, which trusts the cluster's issuer."""

import json
import ssl
import subprocess
import time
import urllib.request

TENANT = "7e000000-0000-4000-8000-000000000001"
AUDIENCE = "api://AzureADTokenExchange"
PORT = 8444
# Applications of the tenant's, so that there are always some for which no token is held yet.
FRESH = [f"api://fresh-{number}" for number in range(16)]


class Entra:
    """Runs until `stop`."""

    def __init__(self, program, folder, host, issuer, jwks):
        self.url = f"https://{host}:{PORT}"
        self.issuer = issuer
        self.credentials = []
        self.clients = []
        # By client: its secrets and certificates.
        self.proofs = {}
        # AKS's token proxy, by the name in TLS that it is asked for.
        self.sni = None
        self.users = {}
        (folder / "jwks.json").write_text(jwks)
        self.folder = folder
        config, ca = folder / "entra.json", folder / "entra-ca.crt"
        ca.unlink(missing_ok=True)
        config.write_text(json.dumps(self.config()))
        log = (folder / "entra.log").open("w")
        command = [program, "emulate", "entra", f"--config={config}", f"--listen={host}:{PORT}", f"--ca-out={ca}"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, f"the emulator has ended: {(folder / 'entra.log').read_text()}"
            try:
                self.tls = ssl.create_default_context(cafile=ca)
                self.ask("GET", "_emulator/requests")
                break
            except OSError as error:
                assert time.monotonic() < deadline, f"the emulator does not answer: {error}"
                time.sleep(0.05)
        self.ca = ca.read_text()

    def config(self):
        applications = [
            {"clientId": client, "objectId": client.replace("c", "b", 1), **self.proofs.get(client, {})}
            for client in self.clients
        ]
        config = {
            "tenants": [{"id": TENANT, "applications": applications, "resources": FRESH}],
            "issuers": [{"issuer": self.issuer, "jwksFile": "jwks.json"}],
            "federatedCredentials": self.credentials,
        }
        if self.sni:
            bindings = [{"clientId": client, "subjects": subjects} for client, subjects in self.users.items()]
            config["identityBindings"] = {"sni": self.sni, "bindings": bindings}
        return config

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10, context=self.tls) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def trust(self, client_id, namespace, account="default"):
        """Makes a federated credential for a service account."""
        if client_id not in self.clients:
            self.clients.append(client_id)
        self.credentials.append({
            "clientId": client_id,
            "issuer": self.issuer,
            "subject": f"system:serviceaccount:{namespace}:{account}",
            "audiences": [AUDIENCE],
        })
        self.ask("PUT", "_emulator/config", self.config())

    def distrust(self, client_id):
        """Takes the federated credentials of an application away."""
        self.credentials = [one for one in self.credentials if one["clientId"] != client_id]
        self.ask("PUT", "_emulator/config", self.config())

    def know(self, client_id, **proofs):
        """Makes an application that proves itself by its secrets and certificates alone, or changes these."""
        if client_id not in self.clients:
            self.clients.append(client_id)
        self.proofs[client_id] = proofs
        self.ask("PUT", "_emulator/config", self.config())

    def outcomes(self, client_id):
        """What became of a client's calls, and how often."""
        rows = self.ask("GET", "_emulator/requests")["outcomes"]
        return {row["outcome"]: row["count"] for row in rows if row["clientId"] == client_id}

    def let_use(self, client_id, sni, subjects):
        """Has AKS's token proxy, which is asked for as `sni`, let these service accounts be an identity."""
        self.sni, self.users[client_id] = sni, subjects
        self.ask("PUT", "_emulator/config", self.config())

    def keys(self):
        return self.ask("GET", f"{TENANT}/discovery/v2.0/keys")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=10)
