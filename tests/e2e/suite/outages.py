"""What those who create pods notice while parts of imdslet and of Kubernetes come and go: nothing."""

import base64
import contextlib
import http.client
import json
import subprocess
import threading
import time

from harness import SYSTEM, container, heavy, test
from kube import Refused

TLS = "imdslet-webhook-tls"
# Of each of the two threads of a stream.
PAUSE = 0.1


class Stream:
    """Pods are created all the time, by two clients. Dry runs: the API server asks the webhook as
    ever, and no kubelet is kept busy."""

    def __init__(self, t):
        self.t = t
        self.done, self.failures = 0, []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(2)]

    def run(self, number):
        api, made = self.t.api, 0
        while not self.stopped.wait(PAUSE):
            made += 1
            metadata = {"name": f"stream-{number}-{made}", "namespace": self.t.namespace,
                        "labels": {"aadpodidbinding": self.t.label}}
            pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": [container()]}}
            try:
                pod = api.json("POST", api.path("Pod", self.t.namespace, dryRun="All"), body=pod)
                sidecars = [one["name"] for one in pod["spec"].get("initContainers", [])]
                assert sidecars == ["imdslet"], f"admitted with the init containers {sidecars}"
                self.done += 1
            except (Refused, OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(f"{time.time():.2f}: {type(error).__name__}: {error}")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.t.eventually("the stream flows", lambda: self.done + len(self.failures) > 3, 20)
        return self

    def __exit__(self, kind, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        if kind is None:
            assert not self.failures, f"{len(self.failures)} of {self.done + len(self.failures)}: {self.failures[:3]}"
            assert self.done > 20, f"only {self.done} pods: that is no stream"
            self.t.note(f"{self.done} pods, none failed")


def secret(t):
    return t.api.find("Secret", SYSTEM, TLS)


def text(data, key):
    return base64.b64decode(data[key]).decode()


def bundles(t):
    """The CAs that the API server was given, by entry."""
    hooks = [hook for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
             for hook in t.api.get(kind, None, "imdslet")["webhooks"]]
    return {hook["name"]: hook["clientConfig"].get("caBundle") for hook in hooks}


def is_told(t):
    """Whether every entry trusts what the Secret says, and nothing else."""
    kept = secret(t)
    return kept and set(bundles(t).values()) == {(kept.get("data") or {}).get("ca.crt")}


def ending_soon(t, data):
    """A serving certificate of the same CA that ends within days."""
    folder = t.cluster.folder / t.namespace
    folder.mkdir(exist_ok=True)
    for key in ("ca.crt", "ca.key"):
        (folder / key).write_text(text(data, key))
    names = f"subjectAltName=DNS:imdslet-webhook.{SYSTEM}.svc\nextendedKeyUsage=serverAuth\n"
    (folder / "extensions").write_text(names)
    openssl = lambda *words: subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ec.key")
    openssl("pkcs8", "-topk8", "-nocrypt", "-in", "ec.key", "-out", "tls.key")
    openssl("req", "-new", "-key", "tls.key", "-subj", "/CN=imdslet-webhook", "-out", "tls.csr")
    openssl("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3",
            "-extfile", "extensions", "-out", "tls.crt")
    return {key: base64.b64encode((folder / key).read_bytes()).decode() for key in ("tls.crt", "tls.key")}


@test
def certificates_change_and_replicas_restart_while_pods_are_created_and_none_fails(t):
    t.bound()
    with Stream(t):
        # The serving certificate ends soon, so that it is renewed at once.
        since = time.time()
        ending = ending_soon(t, secret(t)["data"])
        t.api.patch("Secret", SYSTEM, TLS, {"data": ending})
        renewed = lambda: secret(t)["data"]["tls.crt"] != ending["tls.crt"]
        t.eventually("the certificate is renewed", renewed, 20)
        logged = lambda: t.cluster.events_logged("imdslet-webhook", "CertificateRenewed", since)
        t.eventually("its renewal is logged", logged, 20)

        # It is made rubbish, and then deleted.
        for change in ("rubbish", "deleted"):
            gone = time.time()
            if change == "deleted":
                t.api.delete("Secret", SYSTEM, TLS)
            else:
                t.api.patch("Secret", SYSTEM, TLS, {"data": dict.fromkeys(ending, "cnViYmlzaA==")})
            t.eventually(f"the Secret is there again after it was {change}", lambda: is_told(t), 20)
            after = time.time() - gone
            t.note(f"{change}: restored within {after:.2f} s")
            assert after < 2, f"the Secret is restored after {after:.1f} s"

        t.cluster.restart("imdslet-webhook")
        t.cluster.wait_for_rollout("imdslet-webhook")


@test
def a_new_ca_is_taken_while_pods_are_created_and_none_fails(t):
    t.bound()
    with Stream(t):
        before = text(secret(t)["data"], "ca.crt")
        # One replica ends and finds no Secret when it is back, while the other one serves: whoever
        # comes first decides. Both ways are right.
        t.cluster.restart("imdslet-webhook")
        for _ in range(3):
            t.api.delete("Secret", SYSTEM, TLS)
            t.eventually("the Secret is there again", lambda: secret(t) and secret(t).get("data"), 20)
        t.cluster.wait_for_rollout("imdslet-webhook")
        now = text(secret(t)["data"], "ca.crt")
        assert before.strip() in now, "the CA of the replicas that served is not trusted any more"


@test
def a_ca_bundle_that_others_write_is_set_right_and_their_selectors_stay(t):
    t.bound()
    path = t.api.path("MutatingWebhookConfiguration", None, "imdslet")
    json_patch = lambda patch: t.api.json(
        "PATCH", path, body=patch, content_type="application/json-patch+json")
    # As the admissions enforcer of AKS does it.
    own = {"key": "control-plane", "operator": "DoesNotExist"}
    hooks = t.api.get("MutatingWebhookConfiguration", None, "imdslet")["webhooks"]
    try:
        json_patch([{"op": "add", "path": f"/webhooks/{at}/namespaceSelector/matchExpressions/-", "value": own}
                    for at in range(len(hooks))])
        json_patch([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}])
        gone = time.time()
        t.eventually("the CA is back", lambda: is_told(t), 20)
        after = time.time() - gone
        t.note(f"restored within {after:.2f} s")
        assert after < 1.5, "too late"
        for hook in t.api.get("MutatingWebhookConfiguration", None, "imdslet")["webhooks"]:
            assert own in hook["namespaceSelector"]["matchExpressions"], f"{hook['name']} was written over"
    finally:
        t.api.patch("MutatingWebhookConfiguration", None, "imdslet", {"webhooks": [
            hook | {"clientConfig": hook["clientConfig"] | {"caBundle": bundles(t)[hook["name"]]}}
            for hook in hooks]})
    t.pod()
    t.verified()


@test
def the_api_server_restarts_and_everything_goes_on(t):
    t.bound()
    t.pod(containers=[container("loop")])
    t.verified()
    away = time.time()
    t.cluster.stop("kube-apiserver")
    time.sleep(2)
    t.cluster.start("kube-apiserver")

    def answers():
        with contextlib.suppress(OSError, http.client.HTTPException, Refused, json.JSONDecodeError):
            return t.api.text("GET", "readyz") == "ok"
        return False

    t.eventually("the API server answers", answers, 60)
    back = time.time()

    def creates():
        with contextlib.suppress(OSError, http.client.HTTPException, Refused):
            return t.pod("after")
        return None

    t.eventually("a labelled pod is admitted", creates, 30)
    t.note(f"a pod is admitted {time.time() - back:.1f} s after it was back")
    t.verified("after")
    meanwhile = {one["status"] for one in t.answers_since(away)}
    assert meanwhile == {200}, f"running pods were refused tokens: {meanwhile}"
    t.api.delete("AzureIdentityBinding", t.namespace, "binding")
    gone = time.time()
    t.eventually("running pods follow their binding again", lambda: t.answers_since(gone, status=400), 60)
    t.note(f"and the controller follows {time.time() - gone:.1f} s after a change")


@heavy
def a_minute_of_pods_meets_rolling_restarts_of_everything_and_none_fails(t):
    t.bound()
    with Stream(t):
        end = time.time() + 60
        while time.time() < end:
            for name in ("imdslet-webhook", "imdslet-controller"):
                t.cluster.restart(name)
            for name in ("imdslet-webhook", "imdslet-controller"):
                t.cluster.wait_for_rollout(name)
