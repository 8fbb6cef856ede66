"""Asks azure-identity or msal for tokens: `client.py CREDENTIAL SELECTOR…`, as in ../node/client.js."""

import json
import os
import sys
import time

SCOPE = os.environ["SCOPE"]


def managed(name, value):
    from azure.identity import ManagedIdentityCredential

    if name == "none":
        return ManagedIdentityCredential()
    if name == "client_id":
        return ManagedIdentityCredential(client_id=value)
    return ManagedIdentityCredential(identity_config={name: value})


def default(*_):
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def msal(name, value):
    import msal
    import requests

    which = msal.SystemAssignedManagedIdentity() if name == "none" else msal.UserAssignedManagedIdentity(**{name: value})
    client = msal.ManagedIdentityClient(which, http_client=requests.Session())
    answer = client.acquire_token_for_client(resource=SCOPE.removesuffix("/.default"))
    assert "access_token" in answer, answer
    # It tells no more than the time that is left.
    return answer["access_token"], int(time.time()) + int(answer["expires_in"])


def ask(credential, name, value):
    if credential == "msal":
        return msal(name, value)
    token = {"managed": managed, "default": default}[credential](name, value).get_token(SCOPE)
    return token.token, token.expires_on


for selector in sys.argv[2:]:
    name, _, value = selector.partition("=")
    try:
        token, expires_on = ask(sys.argv[1], name, value)
        line = {"token": token, "expires_on": expires_on}
    except Exception as error:  # Whatever a client raises is its answer.
        line = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"selector": name, **line}))
