"""The clients, what each can ask for, and what is known to be otherwise."""

import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
import time
import typing

import install
from pod import TENANT, identity
from tokens import verify

HERE = install.HERE
RESOURCE = "https://vault.azure.net"
# What az itself asks for when it logs in.
MANAGEMENT = "https://management.core.windows.net/"
ALL = ("none", "client_id", "object_id", "resource_id")
# For a client that needs long to start, or that asks again after errors.
DEADLINE = 240


@dataclasses.dataclass
class Client:
    name: str
    # Installs it and gives the command line that selectors are appended to.
    command: typing.Callable[[], list]
    # How it can name an identity; what is missing here, its interface lacks.
    selectors: tuple = ALL


def python(environment, credential):
    return lambda: [install.python(environment), HERE / "python/client.py", credential]


def node(package, credential):
    return lambda: ["node", HERE / "node/client.js", package, credential]


def go(name, *credential):
    return lambda: [install.go(name), *credential]


def java(version, credential):
    return lambda: ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{install.java(version)}/*", HERE / "java/Client.java", credential]


def by_hand(client):
    return lambda: [sys.executable, HERE / "suite/dotnet.py", client]


CLIENTS = [
    Client("Python azure-identity 1.27.0", python("azure-identity-1.27.0", "managed")),
    Client("Python azure-identity 1.27.0, default credential", python("azure-identity-1.27.0", "default"), ("none",)),
    Client("Python azure-identity 1.12.0", python("azure-identity-1.12.0", "managed")),
    Client("Python azure-identity 1.5.0", python("azure-identity-1.5.0", "managed")),
    Client("Python msal 1.39.0", python("msal-1.39.0", "msal")),
    Client("az 2.91.0", lambda: [sys.executable, HERE / "suite/az.py", install.python("azure-cli-2.91.0")]),
    Client("JavaScript @azure/identity 4.14.1", node("identity-4", "managed")),
    Client("JavaScript @azure/identity 4.14.1, default credential", node("identity-4", "default"), ("none",)),
    Client("JavaScript @azure/identity 2.1.0", node("identity-2", "managed"), ("none", "client_id", "resource_id")),
    Client("JavaScript @azure/identity 1.5.2", node("identity-1", "managed"), ("none", "client_id")),
    Client("JavaScript @azure/msal-node 7.2.3", node("msal-node", "msal")),
    Client("Go azidentity 1.15.0", go("new", "managed")),
    Client("Go azidentity 1.15.0, default credential", go("new", "default"), ("none",)),
    Client("Go azidentity 1.5.1", go("old", "managed"), ("none", "client_id", "resource_id")),
    Client("Go adal 0.9.24", go("adal"), ("none", "client_id")),
    Client("Java azure-identity 1.19.0", java("1.19.0", "managed")),
    Client("Java azure-identity 1.19.0, default credential", java("1.19.0", "default"), ("none",)),
    Client("Java azure-identity 1.5.0", java("1.5.0", "managed"), ("none", "client_id", "resource_id")),
    Client("Rust azure_identity 1.0.0", lambda: [install.rust()]),
    Client(".NET MSAL.NET 4.87.0, its requests by hand", by_hand("msal")),
    Client(".NET default credential, its requests by hand", by_hand("default"), ("none",)),
    Client(".NET first versions, their requests by hand", by_hand("first"), ("none", "client_id")),
]

# What cannot be installed: client, and why. Anything else that cannot be is a failure.
NOT_INSTALLABLE = {}

# What is known to be otherwise, and is asserted to be so: (client, mode, selector) to what comes
# instead and why. None of it is imdslet's to mend.
EXCEPTIONS = {
    ("Python azure-identity 1.5.0", mode, selector): ("first", "it ignores identity_config, so the default is asked for")
    for mode in ("env", "link-local")
    for selector in ("object_id", "resource_id")
} | {
    ("JavaScript @azure/identity 2.1.0", "env", selector): ("NaN", "it reads the number of App Service as a date")
    for selector in ("none", "client_id", "resource_id")
} | {
    ("Rust azure_identity 1.0.0", "env", "resource_id"): ("refused", "it takes no resource id in App Service"),
}


def install_all(report):
    """Two at a time: downloads wait more than they work."""
    wanted = [client for client in CLIENTS if report.wants(client.name)]
    problems = {}

    def one(step):
        name, make = step
        started = time.monotonic()
        try:
            make()
        except Exception as error:  # Each client is a thing of its own.
            problems[name] = str(error)
        seconds = time.monotonic() - started
        if seconds > 1:
            print(f"       installed: {name} ({seconds:.0f} s)", flush=True)

    # What several have in common comes first, so that no two make it at once.
    one(("uv", install.uv))
    one(("the packages of npm", install.node))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        # Those with a second credential are there already when it comes to them.
        several = [client for client in wanted if ", default" in client.name]
        list(pool.map(one, [(client.name, client.command) for client in wanted if client not in several]))
    for client in several:
        one((client.name, client.command))
    for name, problem in problems.items():
        if name not in NOT_INSTALLABLE:
            report.tell(f"{name}: it can be installed", problem)


def run_all(mode, pod, report):
    jwks = pod.entra.keys()
    for client in CLIENTS:
        names = [selector for selector in client.selectors if report.wants(f"{mode}: {client.name}")]
        if not names or client.name in NOT_INSTALLABLE:
            continue
        started = time.monotonic()
        told, said = ask(client, names, pod.environment("app"))
        seconds = time.monotonic() - started
        for name in names:
            instead, why = EXCEPTIONS.get((client.name, mode, name), (None, ""))
            note = f"{instead}, since {why}" if instead else ""
            problem = problem_of(told, name, instead, jwks, said)
            report.tell(f"{mode}: {client.name}: {name}", problem, note, seconds / len(names))


def asked(client, names):
    """The command line by which a client asks for the second identity by each of these, and its variables."""
    selectors = [name if name == "none" else f"{name}={identity('second')[name]}" for name in names]
    command = [str(part) for part in client.command()] + selectors
    return command, {"SCOPE": f"{RESOURCE}/.default", "MODULES": str(install.node())}


def ask(client, names, variables):
    """The client's answers by selector, and all that it said."""
    command, own = asked(client, names)
    home = {name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME") if name in os.environ}
    environment = home | own | variables
    try:
        ended = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=DEADLINE)
    except subprocess.TimeoutExpired as late:
        return {}, f"not within {DEADLINE} s; {late.stderr or b''}"
    return answers(ended.stdout), ended.stdout + ended.stderr


def answers(text):
    """What a client has answered, by selector, of all that it printed."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["selector"]: line for line in lines}


def problem_of(told, name, instead, jwks, said):
    """What is wrong with the answer to one selector, or None."""
    if name not in told:
        return f"it says nothing: {said[-400:]}"
    try:
        judge(told[name], name, instead, jwks)
    except AssertionError as error:
        return str(error)
    return None


def judge(answer, name, instead, jwks):
    """Raises AssertionError where the answer is not what it is to be."""
    if instead == "refused":
        assert "error" in answer, "it is expected to refuse, and has a token: take it from EXCEPTIONS"
        return
    assert "error" not in answer, answer["error"][:400]
    who = identity("first" if name == "none" or instead == "first" else "second")
    claims = verify(answer["token"], jwks, TENANT, RESOURCE, who["client_id"])
    for token in answer.get("presented", []):
        verify(token, jwks, TENANT, MANAGEMENT, who["client_id"])
    assert answer.get("presented") != [], "it presented no token"
    if instead == "NaN":
        assert answer["expires_on"] == "NaN", "it understands the expiry now: take it from EXCEPTIONS"
    else:
        late = abs(answer["expires_on"] - claims["exp"])
        assert late <= 5, f"it takes the token to expire {late} s off, at {answer['expires_on']}"
