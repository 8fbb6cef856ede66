"""Pods of every kind get their tokens."""

import datetime

from harness import container, restricted, scenario, test
from tokens import claims_of


@scenario(20)
@test
def custom_resources_keep_keys_in_the_letter_case_of_the_articles(t):
    t.make_namespace()
    spec = {"type": 0, "ResourceID": "/subscriptions/x", "ClientID": t.client_id}
    t.create("AzureIdentity", "identity", spec)
    t.create("AzureIdentityBinding", "binding", {"AzureIdentity": "identity", "Selector": "label"})
    kept = t.api.get("AzureIdentity", t.namespace, "identity")["spec"]
    assert kept == spec, kept
    kept = t.api.get("AzureIdentityBinding", t.namespace, "binding")["spec"]
    assert kept == {"AzureIdentity": "identity", "Selector": "label"}, kept


@scenario(12)
@test
def an_init_container_gets_a_token(t):
    t.bound()
    # `once` fails without a token, and then the pod does not start.
    t.pod(initContainers=[container("once", "first")])
    t.verified("app", "app")
    t.verified("app", "first")


@test
def a_job_ends_when_its_container_has_ended(t):
    t.bound()
    template = {
        "metadata": {"labels": {"aadpodidbinding": t.label}},
        "spec": {"restartPolicy": "Never", "containers": [container("once")]},
    }
    t.create("Job", "job", {"backoffLimit": 0, "template": template})

    def ended():
        conditions = t.api.get("Job", t.namespace, "job").get("status", {}).get("conditions", [])
        failed = [one for one in conditions if one["type"] == "Failed" and one["status"] == "True"]
        assert not failed, failed
        return any(one["type"] == "Complete" and one["status"] == "True" for one in conditions)

    t.eventually("the Job is complete", ended, 60)
    pod = t.api.list("Pod", t.namespace, labelSelector="job-name=job")[0]
    t.verified(pod["metadata"]["name"])
    status = pod["status"]
    app, sidecar = (one["state"]["terminated"] for one in
                    (status["containerStatuses"][0], status["initContainerStatuses"][0]))
    moment = lambda text: datetime.datetime.fromisoformat(text).timestamp()
    after = moment(sidecar["finishedAt"]) - moment(app["finishedAt"])
    t.note(f"the sidecar ended {after:.0f} s after the application")
    assert sidecar["exitCode"] == 0, sidecar
    assert after <= 3, "the sidecar has kept the Job from ending"


@test
def a_restricted_namespace_admits_the_pod_and_its_sidecar(t):
    t.bound({"pod-security.kubernetes.io/enforce": "restricted"})
    t.pod(containers=[container(securityContext=restricted())])
    t.verified()


@test
def a_pod_names_another_identity_than_the_first_by_its_client_id(t):
    t.bound()
    other = t.other_client_id
    t.cluster.entra.trust(other, t.namespace)
    t.identity("other", other)
    t.bind(name="second", identity="other")
    task = f"serve --resource=https://vault.azure.net&client_id={other}"
    t.pod(containers=[container(), container(task, "second")])
    t.verified("app", "app")
    t.verified("app", "second", client_id=other)


@test
def the_token_of_kubernetes_itself_stays_out_of_the_sidecar(t):
    t.bound()
    t.pod()
    t.verified()
    pod = t.api.get("Pod", t.namespace, "app")
    sidecar = pod["spec"]["initContainers"][0]
    assert sidecar["name"] == "imdslet", sidecar["name"]
    volumes = {mount["name"] for mount in sidecar["volumeMounts"]}
    assert volumes == {"imdslet"}, volumes
    audience = [
        source["serviceAccountToken"]["audience"]
        for volume in pod["spec"]["volumes"] if volume["name"] == "imdslet"
        for source in volume["projected"]["sources"] if "serviceAccountToken" in source
    ]
    assert audience == ["api://AzureADTokenExchange"], audience
    token = t.first_answer()["body"]["access_token"]
    assert claims_of(token)["appid"] == t.client_id
