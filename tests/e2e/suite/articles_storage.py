"""Article 1: azcopy, in an init container, with the identity's client id."""

from articles import manifests, of_kind
from harness import restricted, test
from machine import equip
from storage import account, installed, unsigned

BLOBS = {"data/hello.txt": b"hello, Bourne\n", "data/second.txt": b"second\n"}
SHOW = "cat /var/data/hello.txt /var/data/second.txt && echo shown && exec sleep 1000"


def prepared(things, storage):
    """The pod's spec in the article's Deployment: its init container has azcopy, and its application shows the copies."""
    spec, folder = of_kind(things, "Deployment")["spec"]["template"]["spec"], installed()
    equip(spec, folder, hosts={storage.host: storage.address}, ca=storage.ca)
    spec["initContainers"][0]["env"].append({"name": "PATH", "value": f"{folder}/bin:/usr/bin:/bin"})
    spec["containers"][0]["command"] = ["/bin/sh", "-c", SHOW]
    return spec


def shown(t, storage, client_id):
    """The pod's name, once its application shows what azcopy has copied with tokens of this identity."""
    def found():
        names = [pod["metadata"]["name"] for pod in t.api.list("Pod", t.namespace)]
        return next((name for name in names if "shown" in t.api.logs(t.namespace, name, "my-app")), None)

    pod = t.eventually("the application reads what azcopy has copied", found, 90)
    text = t.api.logs(t.namespace, pod, "my-app")
    assert text == "hello, Bourne\nsecond\nshown\n", text
    assert storage.taken and not storage.refused, storage.refused
    assert {claims["appid"] for claims in storage.taken} == {client_id}, storage.taken
    return pod


@test
def article_1_azcopy_signs_in_in_an_init_container_and_copies(t):
    t.make_namespace()
    things, clients = manifests(t, "1-token-and-azcopy")
    with account(t, "bournestorage", clients.values(), BLOBS) as storage:
        prepared(things, storage)
        for thing in things:
            t.api.create(thing)
        shown(t, storage, clients["bourne"])


@test
def article_1_azcopy_confined_by_seccomp_signs_in_by_its_variables(t):
    t.make_namespace()
    things, clients = manifests(t, "1-token-and-azcopy")
    with account(t, "bournestorage", clients.values(), BLOBS) as storage:
        spec = prepared(things, storage)
        init = spec["initContainers"][0]
        for one in (init, spec["containers"][0]):
            one["securityContext"] = restricted()
        login, _, copy = init["args"][0].partition("&&")
        # As printed it keeps its token in the kernel's keyring, which the runtime's profile forbids.
        init["args"] = [f"! {login} && {copy}"]
        variables = {"AZCOPY_AUTO_LOGIN_TYPE": "MSI", "AZCOPY_MSI_CLIENT_ID": clients["bourne"]}
        init["env"] += [{"name": name, "value": value} for name, value in variables.items()]
        for thing in things:
            t.api.create(thing)
        pod = shown(t, storage, clients["bourne"])
    log = t.api.logs(t.namespace, pod, "data-init")
    assert "failed to get keyring" in log, log


@test
def article_1_the_storage_refuses_what_azurite_takes_unsigned(t):
    t.bound()
    t.pod()
    other = t.first_answer()["body"]["access_token"]
    path = "/data/hello.txt"
    with account(t, "bournestorage", [t.client_id], BLOBS) as storage:
        headers = lambda token: {"Authorization": f"Bearer {token}", "x-ms-version": "2021-12-02"}
        alone, _, content = storage.azurite.ask("GET", path, headers(unsigned(appid=t.client_id)), b"")
        assert (alone, content) == (200, BLOBS["data/hello.txt"]), alone
        asked = {"unsigned": headers(unsigned(appid=t.client_id)), "for the vault": headers(other), "nobody": {}}
        status = {name: storage.answer("GET", path, one, b"")[0] for name, one in asked.items()}
        assert status == {"unsigned": 403, "for the vault": 403, "nobody": 401}, status
