"""The demo application of article 0, in Python: it loads its settings from a key vault, and tells them at /api/settings.

As there, a secret `Settings--ValueOne` is the setting `Settings:ValueOne`, and only the vault's address is configured.
"""

import http.server
import json
import os

from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient


def load(url):
    client = SecretClient(url, DefaultAzureCredential())
    names = [secret.name for secret in client.list_properties_of_secrets()]
    return {name.replace("--", ":"): client.get_secret(name).value for name in names}


SETTINGS = load(os.environ["KeyVault__BaseUrl"])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_there = self.path == "/api/settings"
        settings = {"valueOne": SETTINGS["Settings:ValueOne"], "valueTwo": SETTINGS["Settings:ValueTwo"]}
        body = json.dumps(settings if is_there else {}).encode()
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 80), Handler).serve_forever()
