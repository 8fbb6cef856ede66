"""Pods that somebody else makes: each kind of workload."""

from harness import container, shows, test


def template(t, task="serve", **spec):
    """The pods of a workload."""
    pod = {"containers": [container(task)], "terminationGracePeriodSeconds": 2, **spec}
    return {"metadata": {"labels": {"app": "workload", "aadpodidbinding": t.label}}, "spec": pod}


def pods_of(t, kind, count):
    """The names of the pods that an object of this kind owns, once there are so many."""
    def found():
        owned = lambda pod: [one["kind"] for one in pod["metadata"].get("ownerReferences", [])] == [kind]
        names = [pod["metadata"]["name"] for pod in t.api.list("Pod", t.namespace) if owned(pod)]
        return names if len(names) == count else None

    return t.eventually(f"{count} pods of a {kind}", found, 30)


@test
def pods_of_a_stateful_set_and_of_a_daemon_set_get_tokens_and_again_when_they_come_back(t):
    t.bound()
    chosen = {"selector": {"matchLabels": {"app": "workload"}}}
    t.create("StatefulSet", "stateful", {**chosen, "replicas": 2, "serviceName": "none", "template": template(t)})
    t.create("DaemonSet", "daemon", {**chosen, "template": template(t)})
    for name in ("stateful-0", "stateful-1", *pods_of(t, "DaemonSet", 1)):
        t.verified(name)
    uid = t.api.get("Pod", t.namespace, "stateful-0")["metadata"]["uid"]
    t.api.delete("Pod", t.namespace, "stateful-0")

    def is_back():
        pod = t.api.find("Pod", t.namespace, "stateful-0")
        return pod and pod["metadata"]["uid"] != uid

    t.eventually("stateful-0 is made again", is_back, 30)
    t.verified("stateful-0")


@shows("Jobs")
@test
def a_cron_job_ends_each_time(t):
    t.bound()
    job = {"spec": {"backoffLimit": 0, "template": template(t, "once", restartPolicy="Never")}}
    t.create("CronJob", "cron", {"schedule": "* * * * *", "jobTemplate": job})
    complete = lambda: [one for one in t.api.list("Job", t.namespace) if one.get("status", {}).get("succeeded")]
    done = t.eventually("a Job of the CronJob is complete", complete, 100)[0]
    assert [one["kind"] for one in done["metadata"]["ownerReferences"]] == ["CronJob"], done
    pod = t.api.list("Pod", t.namespace, labelSelector=f"job-name={done['metadata']['name']}")[0]
    t.verified(pod["metadata"]["name"])
    ended = lambda: not t.api.get("CronJob", t.namespace, "cron").get("status", {}).get("active")
    t.eventually("the CronJob has no Job at work", ended, 20)
