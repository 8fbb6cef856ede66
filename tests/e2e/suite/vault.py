"""What stands in for Azure Key Vault: it asks for a token as the real one does, and takes none that it cannot verify."""

import base64
import contextlib
import re
import urllib.parse

from entra import TENANT
from stand_ins import Authority, Server, as_json, door
from tokens import verify

AUDIENCE = "https://vault.azure.net"
SUFFIX = "vault.azure.net"
CHALLENGE = f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", resource="{AUDIENCE}"'
# Of every secret and key.
VERSION = "0" * 31 + "1"
ENABLED = {"enabled": True}


def refusal(status, code, message, **headers):
    return as_json(status, {"error": {"code": code, "message": message}}, **headers)


class Vault:
    """Decides what is answered; `keys` gives the signing keys of Entra ID."""

    def __init__(self, host, keys, allowed, secrets, public_keys=None):
        self.host, self.keys, self.allowed = host, keys, set(allowed)
        self.secrets, self.public_keys = secrets, public_keys or {}
        # The claims of the tokens that were taken.
        self.taken = []

    def admit(self, authorization, now=None):
        """The refusal of whoever comes with this header, or None."""
        if not authorization:
            return refusal(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.",
                           WWW_Authenticate=CHALLENGE)
        token = authorization.removeprefix("Bearer ")
        try:
            claims = verify(token, self.keys(), TENANT, AUDIENCE, now=now)
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            return refusal(401, "Unauthorized", f"the token is not valid: {error}",
                           WWW_Authenticate=f'{CHALLENGE}, error="invalid_token"')
        if claims["appid"] not in self.allowed:
            return refusal(403, "Forbidden", f"appid={claims['appid']} does not have permission to get secrets")
        self.taken.append(claims)
        return None

    def answer(self, method, target, headers, _body):
        refused = self.admit(headers.get("Authorization"))
        if refused:
            return refused
        path = urllib.parse.urlsplit(target).path
        if method == "GET" and path.rstrip("/") == "/secrets":
            items = [{"id": self.identifier("secrets", name), "attributes": ENABLED} for name in self.secrets]
            return as_json(200, {"value": items, "nextLink": None})
        found = re.fullmatch(r"/(secrets|keys)/([0-9A-Za-z-]+)(/[0-9a-f]*)?", path)
        if method == "GET" and found:
            kind, name = found[1], found[2]
            if kind == "secrets" and name in self.secrets:
                whose = self.identifier(kind, name, VERSION)
                return as_json(200, {"value": self.secrets[name], "id": whose, "attributes": ENABLED})
            if kind == "keys" and name in self.public_keys:
                key = self.public_keys[name] | {"kid": self.identifier(kind, name, VERSION)}
                return as_json(200, {"key": key, "attributes": ENABLED})
            word = kind.removesuffix("s").capitalize()
            return refusal(404, f"{word}NotFound", f"A {kind[:-1]} with (name/id) {name} was not found in this key vault.")
        return refusal(404, "NotFound", f"nothing is served at {method} {path}")

    def identifier(self, *parts):
        return "/".join([f"https://{self.host}", *parts])


def rsa_key(number=65537):
    """A public key as the vault shows it. Nobody has its private half, and nobody needs it."""
    encode = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    modulus = bytes([0xC1]) + bytes((7 * at + 1) % 256 for at in range(254)) + b"\x0f"
    return {"kty": "RSA", "n": encode(modulus), "e": encode(number.to_bytes(3, "big")), "key_ops": ["verify"]}


@contextlib.contextmanager
def vault(t, name, allowed, secrets, public_keys=None):
    """A vault of this name that runs, its address in the cluster, and the authority that signed for it."""
    authority = Authority(t.cluster.folder / "stand-ins")
    host = f"{name}.{SUFFIX}"
    one = Vault(host, t.cluster.entra.keys, allowed, secrets, public_keys)
    server = Server(t.cluster.host, authority, [host], one.answer)
    try:
        one.address, one.port, one.ca = door(t, name, server.port), server.port, authority.ca
        yield one
    finally:
        server.close()
