"""The articles that taught aad-pod-identity: their manifests, with the clients that they mean.

What the tests change in manifests/demo is the images, which are not to be had, where a name of Azure leads to, and what
docs/compatibility.md tells of ("The articles").
"""

import json
import subprocess
import urllib.request

from cluster import ROOT
from entra import TENANT
from harness import container, test
from machine import CLIENTS, PROGRAMS, equip, install
from tokens import verify
from vault import vault

MANAGEMENT = "https://management.azure.com/"
SQL = "https://database.windows.net/"
# What the first article's curl prints, in its order.
PRINTED = ["access_token", "expires_in", "expires_on", "ext_expires_in", "not_before", "resource", "token_type"]


def manifests(t, name):
    """The objects of an article, those without a namespace in the test's, and the client ids of its identities."""
    things = t.cluster.read(ROOT / f"manifests/demo/{name}.yaml")
    clients = {}
    for thing in things:
        if thing["kind"] == "AzureIdentity":
            spec = {key.lower(): value for key, value in thing["spec"].items()}
            clients[thing["metadata"]["name"]] = spec["clientid"]
            t.cluster.entra.trust(spec["clientid"], t.namespace)
        # kubectl has filled in `default` where there was none.
        if thing["metadata"].get("namespace") == "default":
            thing["metadata"]["namespace"] = t.namespace
    return things, clients


def of_kind(things, kind):
    return next(thing for thing in things if thing["kind"] == kind)


def reports(t, pod, name, seconds=90):
    """The lines of JSON that a container has printed, once there is one."""
    def found():
        lines = t.api.logs(t.namespace, pod, name).splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    return t.eventually(f"{pod}/{name} reports", found, seconds)


def answered(url):
    """The JSON at a URL, or None where nobody listens yet."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)
    except OSError:
        return None


@test
def article_0_three_replicas_read_their_settings_from_a_key_vault(t):
    t.make_namespace()
    things, clients = manifests(t, "0-key-vault")
    secrets = {"Settings--ValueOne": "DemoValueOne", "Settings--ValueTwo": "DemoValueTwo"}
    with vault(t, "myvault", clients.values(), secrets) as store:
        spec = of_kind(things, "Deployment")["spec"]["template"]["spec"]
        python = install.python("azure-keyvault-secrets-4.12.0")
        equip(spec, python.parents[1], PROGRAMS, hosts={store.host: store.address}, ca=store.ca)
        # As in images of ASP.NET Core of then, which listen on port 80.
        spec["containers"][0] |= {"command": [str(python), str(PROGRAMS / "key_vault_app.py")],
                                  "securityContext": {"runAsUser": 0}}
        for thing in things:
            t.api.create(thing)
        t.cluster.wait_for_rollout("aadpodidentitydemoapibackend", t.namespace, 120)
        pods = t.api.list("Pod", t.namespace)
        assert len(pods) == 3, [pod["metadata"]["name"] for pod in pods]
        for pod in pods:
            url = f"http://{pod['status']['podIP']}/api/settings"
            # The article's Deployment has no probe, so that a pod counts as ready before it answers.
            settings = t.eventually(f"{url} answers", lambda: answered(url), 60)
            assert settings == {"valueOne": "DemoValueOne", "valueTwo": "DemoValueTwo"}, settings
    assert {claims["appid"] for claims in store.taken} == set(clients.values()), store.taken
    assert len({claims["uti"] for claims in store.taken}) == 3, "each pod has a token of its own"
    assert len(store.taken) == 9, "each has listed the names and read two secrets"


@test
def article_0_the_vault_refuses_what_it_cannot_verify(t):
    t.bound()
    ask = lambda name, **more: container(f"serve --resource={more['resource']}", name)
    t.pod(containers=[ask("right", resource="https://vault.azure.net"), ask("other", resource=MANAGEMENT)])
    token = {name: t.first_answer("app", name)["body"]["access_token"] for name in ("right", "other")}
    head, claims, signature = token["right"].split(".")
    forged = f"{head}.{claims[:-4]}AAAA.{signature}"
    with vault(t, "myvault", [t.client_id], {"one": "1"}) as store:
        judged = lambda text, **more: (store.admit(text and f"Bearer {text}", **more) or (200, {}))[0]
        assert judged(token["right"]) == 200
        exp = store.taken[0]["exp"]
        verdicts = [judged(text) for text in ("", token["other"], forged, f"{head}.{claims}.", "none")]
        assert verdicts == [401] * 5, verdicts
        assert judged(token["right"], now=exp) == 401, "it has expired"
        store.allowed.clear()
        assert judged(token["right"]) == 403, "nobody is allowed"
    assert len(store.taken) == 1, store.taken


@test
def article_1_the_curl_of_the_article_prints_the_same_fields_in_both_modes(t):
    t.bound()
    # With the address that the printed copy lost.
    path = f"metadata/identity/oauth2/token?api-version=2018-02-01&resource={MANAGEMENT}"
    curl = lambda host: f'curl -s -X GET -H Metadata:true "{host}/{path}"'
    printed, moved = curl("http://169.254.169.254"), curl("$AZURE_POD_IDENTITY_AUTHORITY_HOST")
    query = f"api-version=2019-08-01&resource={MANAGEMENT}"
    current = f'curl -s -H "X-IDENTITY-HEADER: $IDENTITY_HEADER" "$IDENTITY_ENDPOINT?{query}"'
    shell = lambda name, command: {"name": name, "command": ["/bin/sh", "-c", f"{command}; echo; exec sleep 1000"]}
    link_local = {"imdslet.dev/endpoint": "link-local"}
    t.pod("link-local", annotations=link_local, **equip({"containers": [shell("printed", printed)]}))
    t.pod("env", **equip({"containers": [shell("moved", moved), shell("current", current)]}))
    jwks = t.cluster.entra.keys()
    for pod, name in (("link-local", "printed"), ("env", "moved"), ("env", "current")):
        answer = reports(t, pod, name)[0]
        assert set(PRINTED) <= set(answer), f"{pod}/{name}: {sorted(answer)}"
        assert all(isinstance(answer[field], str) for field in PRINTED), answer
        assert (answer["resource"], answer["token_type"]) == (MANAGEMENT, "Bearer"), answer
        claims = verify(answer["access_token"], jwks, TENANT, MANAGEMENT, t.client_id)
        # Reckoned from `expires_in` when the answer of Entra ID arrives.
        late = int(answer["expires_on"]) - claims["exp"]
        assert abs(late) <= 5, f"it is told to expire {late} s off"


@test
def article_2_a_pod_has_the_identities_of_another_namespace_and_no_other(t):
    t.make_namespace()
    things, clients = manifests(t, "2-namespaces-and-multiple-identities")
    t.make_namespace(name=of_kind(things, "Namespace")["metadata"]["name"])
    # One that no binding gives to this pod.
    t.identity("stranger")
    pod = of_kind(things, "Pod")
    wanted = {"default": None, "one": clients["myidentity"], "two": clients["myidentity2"], "stranger": t.client_id}
    task = lambda client: "serve --resource=https://vault.azure.net" + (f"&client_id={client}" if client else "")
    pod["spec"]["containers"] = [container(task(client), name) for name, client in wanted.items()]
    for thing in things:
        if thing["kind"] != "Namespace":
            t.api.create(thing)
    # Each binding selects the pod; the first by name is the default.
    t.verified("mypod", "default", client_id=clients["myidentity"])
    t.verified("mypod", "one", client_id=clients["myidentity"])
    t.verified("mypod", "two", client_id=clients["myidentity2"])
    refused = t.first_answer("mypod", "stranger")
    assert refused["status"] == 400, refused
    for name in ("aad-broker/myidentity", "aad-broker/myidentity2"):
        assert name in refused["body"]["error_description"], refused

    def assigned():
        command = [*t.cluster.kubectl, "get", "AzureAssignedIdentities", "--all-namespaces", "--no-headers"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        names = sorted(line.split()[1] for line in shown.splitlines() if line.startswith(t.namespace))
        return names == [f"mypod-{t.namespace}-{name}" for name in clients]

    t.eventually("kubectl shows what the article looks for", assigned, 20)


@test
def article_3_python_and_java_get_a_token_for_azure_sql(t):
    t.make_namespace()
    things, clients = manifests(t, "3-azure-sql")
    # As .NET's GetAccessTokenAsync("https://database.windows.net/") asks: with the slash, which a scope keeps so.
    scope = {"name": "SCOPE", "value": f"{SQL}/.default"}
    python, jars = install.python("azure-identity-1.27.0"), install.java("1.19.0")
    java = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", str(CLIENTS / "java/Client.java"), "managed"]
    commands = {"aadtest1": [str(python), str(CLIENTS / "python/client.py"), "default"], "aadtest2": java}
    pod = of_kind(things, "Pod")
    for thing in things:
        if thing is not pod:
            t.api.create(thing)
    for name, command in commands.items():
        one = json.loads(json.dumps(pod))
        one["metadata"]["name"] = name
        one["spec"]["restartPolicy"] = "Never"
        equip(one["spec"], python.parents[1], jars, CLIENTS)
        app = one["spec"]["containers"][0]
        app |= {"command": [*command, "none"], "env": [*app["env"], scope]}
        t.api.create(one)
    for name in commands:
        answer = reports(t, name, "aadtest1")[0]
        assert "token" in answer, answer
        verify(answer["token"], t.cluster.entra.keys(), TENANT, SQL, clients["sqlaad1"])
