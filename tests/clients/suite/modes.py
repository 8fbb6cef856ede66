"""The two ways in which a pod's applications find the endpoint, each with all that is tried in it."""

import clients
import link_local
import managed
from pod import Pod

MODES = ("link-local", "env")


def run(mode, folder, report):
    annotations = link_local.ANNOTATIONS if mode == "link-local" else {}
    pod = Pod(folder, annotations)
    try:
        if mode == "link-local":
            for test in link_local.TESTS:
                name = f"{mode}: {test.__name__.replace('_', ' ')}"
                if not report.check(name, test, pod):
                    return
        else:
            pod.start_sidecar()
        clients.run_all(mode, pod, report)
        if mode == "env":
            for test in managed.TESTS:
                name = f"managed: {test.__name__.replace('_', ' ')}"
                if report.wants(name):
                    report.check(name, test, pod)
    finally:
        pod.close()
