"""Ten thousand identities and ten thousand bindings."""

import pathlib
import time

from harness import heavy, resource_id

MANY = 10_000
API = "aadpodidentity.k8s.io/v1"


def client_id(number):
    return f"d0000000-0000-4000-8000-{number:012}"


def pairs(namespace, count):
    """As many identities, each with a binding, none of them of the test's first pod."""
    things = []
    for number in range(count):
        metadata = {"name": f"many-{number}", "namespace": namespace}
        identity = {"type": 0, "resourceID": resource_id(metadata["name"]), "clientID": client_id(number)}
        binding = {"azureIdentity": metadata["name"], "selector": metadata["name"]}
        for kind, spec in (("AzureIdentity", identity), ("AzureIdentityBinding", binding)):
            things.append({"kind": kind, "apiVersion": API, "metadata": metadata, "spec": spec})
    return things


def sizes(t):
    """The RSS of each of imdslet's programs in the cluster, in MiB."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            is_ours = (process / "comm").read_text() == "imdslet-webhook\n"
            if is_ours and f"/{t.cluster.netns}/" in (process / "cgroup").read_text():
                pages = int((process / "statm").read_text().split()[1])
                found.append(round(pages * 4096 / 2**20, 1))
        except OSError:
            continue
    return sorted(found)


@heavy
def ten_thousand_identities_and_bindings_are_served(t):
    t.bound()
    before = sizes(t)
    began = time.time()
    t.api.create_all(pairs(t.namespace, MANY))
    t.note(f"created in {time.time() - began:.0f} s")
    last = MANY - 1
    t.cluster.entra.trust(client_id(last), t.namespace)
    t.pod()
    t.pod("last", f"many-{last}")
    t.verified()
    t.verified("last", client_id=client_id(last))
    t.note(f"RSS of webhooks and controllers {sizes(t)} MiB, {before} before")
    began = time.time()
    t.cluster.restart("imdslet-webhook")
    t.cluster.wait_for_rollout("imdslet-webhook")
    t.note(f"webhooks rolled out in {time.time() - began:.0f} s")
    t.pod("again", f"many-{last}")
    t.verified("again", client_id=client_id(last))
