"""The real clients of tests/clients, each in a pod of its own."""

import os

from harness import heavy, test
from machine import CLIENTS, equip, install

# Of tests/clients: what is run, what is known to be otherwise, and how an answer is judged.
import clients
import pod as sample

# The current version of each library, one of its credentials.
CURRENT = (
    "Python azure-identity 1.27.0", "Python msal 1.39.0", "JavaScript @azure/identity 4.14.1", "Go azidentity 1.15.0",
    "Java azure-identity 1.19.0", "Rust azure_identity 1.0.0", "az 2.91.0",
)


def bind_both(t):
    """The two identities of tests/clients, the first of which is the default."""
    t.make_namespace()
    for thing in sample.manifest({})["items"]:
        thing["metadata"]["namespace"] = t.namespace
        if thing["kind"] == "AzureIdentityBinding":
            thing["spec"]["selector"] = t.label
        if thing["kind"] != "Pod":
            t.api.create(thing)
    for name in sample.NUMBERS:
        t.cluster.entra.trust(sample.identity(name)["client_id"], t.namespace)


def start(t, client, selectors, name, annotations):
    command, variables = clients.asked(client, selectors)
    env = [{"name": name, "value": value} for name, value in variables.items()]
    spec = equip({"containers": [{"name": "app", "command": command, "env": env}]}, install.CACHE, CLIENTS)
    t.pod(name, annotations=annotations, restartPolicy="Never", **spec)


def said(t, name):
    """All that a pod's client has said, once it has ended."""
    over = lambda: t.api.get("Pod", t.namespace, name)["status"].get("phase") in ("Succeeded", "Failed")
    t.eventually(f"{name} ends", over, clients.DEADLINE)
    return t.api.logs(t.namespace, name, "app")


def problems(t, mode, client, selectors, name, jwks):
    """What is wrong with the answers that the client of a pod was given."""
    text = said(t, name)
    told = clients.answers(text)
    for selector in selectors:
        instead, _ = clients.EXCEPTIONS.get((client.name, mode, selector), (None, ""))
        problem = clients.problem_of(told, selector, instead, jwks, text)
        if problem:
            yield f"{client.name}, {selector}: {problem}"


def all_get_tokens(t, mode, wanted, selectors):
    """Has a pod for each client that is wanted, as many at once as there are processors.

    More would be slower, and some clients reckon the expiry from when they come to it.
    """
    bind_both(t)
    pods = [(client, [one for one in client.selectors if one in selectors], f"client-{number}")
            for number, client in enumerate(wanted)]
    jwks, found, at_once = t.cluster.entra.keys(), [], os.cpu_count()
    for first in range(0, len(pods), at_once):
        for one in pods[first:first + at_once]:
            start(t, *one, {"imdslet.dev/endpoint": mode})
        for one in pods[first:first + at_once]:
            found += problems(t, mode, *one, jwks)
    assert not found, "\n".join(found)
    t.note(f"{len(pods)} clients, {sum(len(asked) for _, asked, _ in pods)} answers")


def current():
    found = [client for client in clients.CLIENTS if client.name in CURRENT]
    assert len(found) == len(CURRENT), f"tests/clients lacks one of {CURRENT}"
    return found


@test
def the_current_clients_in_pods_get_tokens_by_their_variables(t):
    all_get_tokens(t, "env", current(), ("none", "client_id"))


@test
def the_current_clients_in_pods_get_tokens_from_azures_own_address(t):
    all_get_tokens(t, "link-local", current(), ("none", "client_id"))


@heavy
def every_client_in_a_pod_gets_tokens_by_its_variables_and_every_id(t):
    all_get_tokens(t, "env", clients.CLIENTS, clients.ALL)


@heavy
def every_client_in_a_pod_gets_tokens_from_azures_own_address_by_every_id(t):
    all_get_tokens(t, "link-local", clients.CLIENTS, clients.ALL)
