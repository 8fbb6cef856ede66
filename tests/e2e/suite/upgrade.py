"""An older release, of other programs, another chart and another install.yaml than today's, is upgraded and gone back to.

`../older` says which one it is, and builds it.
"""

import contextlib
import json
import pathlib
import subprocess
import time

from chart import CHART, helm, rolled_out, uninstall, values
from cluster import DEPLOYMENTS, ROOT
from harness import container, heavy
from lifecycle import images, leftovers, restarts
from outages import Stream

TAG = "older"
CONFIGURATIONS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def release():
    """The folder of the older release."""
    done = subprocess.run([ROOT / "tests/e2e/older"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, "the older release could not be built: what it says stands above"
    return pathlib.Path(done.stdout.strip())


def older(t):
    """The same, whose images the node has."""
    folder = release()
    t.cluster.load(*sorted(folder.glob("*.tar")))
    return folder


def clear(t):
    """Takes imdslet out of the cluster, but for its namespace and the CA in it that tests trust."""
    uninstall(t)
    stays = lambda one: one["kind"] == "Namespace" or one["metadata"]["name"] == "imdslet-extra-ca"
    things = [one for one in t.cluster.manifest() if not stays(one)]
    # First who would make their Secret again.
    t.cluster.remove([one for one in things if one["kind"] == "Deployment"])
    for name in DEPLOYMENTS:
        t.eventually(f"the replicas of {name} are gone", lambda: not t.cluster.pods_of(name), 60)
    t.cluster.remove(things)


@contextlib.contextmanager
def instead_of_todays(t):
    """While it lasts the cluster is as it was before imdslet; afterwards it has today's install.yaml again."""
    clear(t)
    try:
        yield
    finally:
        clear(t)
        t.cluster.install()


class Pods:
    """Pods of both releases, which ask for tokens all the time."""

    def __init__(self, t):
        self.t, self.names, self.began = t, [], time.time()
        self.client_id = t.client_id
        self.todays = images()["imdslet-sidecar"][0]

    def add(self, name, sidecar):
        """A new pod has a token, by that sidecar."""
        self.t.pod(name, containers=[container("loop")])
        self.t.verified(name, client_id=self.client_id)
        found = self.t.api.get("Pod", self.t.namespace, name)["spec"]["initContainers"][0]["image"]
        assert found == sidecar, f"{name} has {found}"
        self.names.append(name)

    def follow(self, client_id):
        """All of them are told of a change by whichever controller there is."""
        since, self.client_id = time.time(), client_id
        self.t.api.patch("AzureIdentity", self.t.namespace, "identity", {"spec": {"clientID": client_id}})
        for name in self.names:
            self.t.follows(client_id, name, since=since)

    def were_never_refused(self):
        for name in self.names:
            refused = self.t.refused(name, self.began)
            assert not refused, f"{name}: {refused[0]}"
            assert set(restarts(self.t, name).values()) == {0}, restarts(self.t, name)

    def have_tokens_since(self, moment):
        for name in self.names:
            self.t.eventually(f"{name} has tokens still", lambda: self.t.answers_since(moment, name, 200), 30)

    def lose_their_binding_and_have_it_again(self):
        self.t.api.delete("AzureIdentityBinding", self.t.namespace, "binding")
        gone = time.time()
        for name in self.names:
            self.t.eventually(f"{name} is refused", lambda: self.t.answers_since(gone, name, 400), 30)
        self.t.bind()
        self.have_tokens_since(time.time())
        self.began = time.time()


def there_and_back(t, upgrade, go_back):
    """With the older release in the cluster: upgrades, and goes back, while pods are created. Returns the pods."""
    t.bound()
    t.cluster.entra.trust(t.other_client_id, t.namespace)
    pods = Pods(t)
    pods.add("older", f"imdslet-sidecar:{TAG}")
    with Stream(t):
        upgrade()
        rolled_out(t)
        pods.add("newer", pods.todays)
        pods.follow(t.other_client_id)
        go_back()
        rolled_out(t)
        pods.add("back", f"imdslet-sidecar:{TAG}")
        pods.follow(t.client_id)
    pods.were_never_refused()
    pods.lose_their_binding_and_have_it_again()
    return pods


@heavy
def helm_upgrades_an_older_release_and_rolls_back_while_pods_are_created_and_none_fails(t):
    folder = older(t)
    with instead_of_todays(t):
        tags = ["--set", f"image.tag={TAG}", "--set", f"sidecar.image.tag={TAG}"]
        helm(t, "install", "imdslet", folder / "chart", values(t), *tags)
        rolled_out(t)
        upgrade = lambda: helm(t, "upgrade", "imdslet", CHART, values(t))
        pods = there_and_back(t, upgrade, lambda: helm(t, "rollback", "imdslet", "1"))
        uninstall(t)
        t.pod("plain")
        assert "initContainers" not in t.api.get("Pod", t.namespace, "plain")["spec"]
        pods.have_tokens_since(time.time())
        pods.were_never_refused()


@heavy
def install_yaml_upgrades_an_older_release_and_the_older_one_takes_over_again_while_pods_are_created(t):
    folder = older(t)
    now = images()
    text = json.dumps(t.cluster.manifest(folder / "install.yaml"))
    for name, (image, _) in now.items():
        assert image in text, f"the older install.yaml does not name {image}"
        text = text.replace(image, f"{name}:{TAG}")
    with instead_of_todays(t):
        # As each file says of itself.
        t.cluster.apply(json.loads(text))
        rolled_out(t)
        upgrade = lambda: t.cluster.apply(t.cluster.manifest(), "--server-side", "--force-conflicts")
        pods = there_and_back(t, upgrade, lambda: t.cluster.apply(json.loads(text)))
        for kind in CONFIGURATIONS:
            t.api.delete(kind, None, "imdslet")
        t.cluster.remove([one for one in t.cluster.manifest() if one["kind"] != "CustomResourceDefinition"])
        t.cluster.run("delete", "azureassignedidentity", "--all-namespaces", "-l", "app.kubernetes.io/managed-by=imdslet")
        assert not leftovers(t), leftovers(t)
        pods.have_tokens_since(time.time())
        pods.were_never_refused()
