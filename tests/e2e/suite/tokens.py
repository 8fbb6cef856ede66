"""Checks an access token as an Azure service would, with nothing but arithmetic."""

import base64
import hashlib
import json
import time

# DER of DigestInfo for SHA-256. Source: RFC 8017, section 9.2, note 1.
SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token):
    return json.loads(decode(token.split(".")[1]))


def is_signed(token, jwks):
    """RSASSA-PKCS1-v1_5 with SHA-256: RFC 8017, section 8.2.2."""
    signed, _, signature = token.rpartition(".")
    header = json.loads(decode(signed.split(".")[0]))
    if header["alg"] != "RS256":
        return False
    key = next((key for key in jwks["keys"] if key["kid"] == header["kid"]), None)
    if key is None:
        return False
    modulus = int.from_bytes(decode(key["n"]), "big")
    exponent = int.from_bytes(decode(key["e"]), "big")
    length = (modulus.bit_length() + 7) // 8
    signature = decode(signature)
    if len(signature) != length:
        return False
    message = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(length, "big")
    digest = SHA256_PREFIX + hashlib.sha256(signed.encode()).digest()
    return message == b"\0\1" + b"\xff" * (length - len(digest) - 3) + b"\0" + digest


def verify(token, jwks, tenant, audience, client_id=None, proof="2", now=None):
    """Raises AssertionError for what is wrong, and returns the claims.

    Without `client_id` it is anybody's. `proof` is 1 for a secret, 2 for an assertion; `now` is another time than this.
    """
    assert is_signed(token, jwks), "the signature is wrong"
    claims = claims_of(token)
    expected = {"aud": audience, "iss": f"https://sts.windows.net/{tenant}/", "tid": tenant, "appidacr": proof}
    expected |= {"appid": client_id} if client_id else {}
    found = {claim: claims[claim] for claim in expected}
    assert found == expected, f"claims are {found} and not {expected}"
    now = time.time() if now is None else now
    assert claims["nbf"] <= now < claims["exp"], f"valid from {claims['nbf']} to {claims['exp']}, now {now}"
    return claims
