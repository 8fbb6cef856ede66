"""The alerts and the dashboard of manifests/monitoring, asked of a real Prometheus that scrapes the real programs."""

import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from cluster import ROOT
from harness import SYSTEM, container, test
from scenarios import another

HEALTH, METRICS = 8080, 9464
# What a cluster without Secrets Store volumes, whose objects do not vanish, has nothing of.
QUIET = ("imdslet_snapshot_held) == 1", "imdslet_classes_written_total")
# Tokens that are fetched anew every few seconds, so that there are fetches to be seen, of several resources: each of
# them is tried again by itself, later and later, once it is refused.
RESOURCES = ("vault.azure.net", "management.azure.com", "storage.azure.com", "graph.microsoft.com")
ANEW = "loop --resource=https://{}&bypass_cache=true&client_id={}"
# What the test brings about, and no other alert may be of.
TROUBLES = {"ImdsletAdmissionsRefused", "ImdsletTokensFail"}
ROUNDS = 12
SERIES = re.compile(r"\b(imdslet_\w+)(?:\{([^}]*)\})?")
MATCHED = re.compile(r"(\w+)(?:=~|!~|!=|=)\"")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Passing:
    """Passes what Prometheus asks of `/NAMESPACE/POD/PORT` on to that pod, by way of the API server."""

    def __init__(self, api):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                namespace, pod, port = self.path.strip("/").split("/")
                path = api.path("Pod", namespace, f"{pod}:{port}", "proxy/metrics")
                # As Prometheus asks; the answer says which of its formats it is.
                with api.open("GET", path) as answer:
                    text, kind = answer.read(), answer.headers["Content-Type"]
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A Prometheus that ends in the middle of a scrape is no fault.
        self.server.handle_error = lambda *_: None
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Prometheus:
    """A Prometheus that scrapes these pods each second, and has the alerts, and these once more with no delay."""

    def __init__(self, folder, passing, pods):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        jobs = [
            {"job_name": f"{namespace}/{pod}", "metrics_path": f"/{namespace}/{pod}/{port}",
             "static_configs": [{"targets": [passing.address], "labels": {"namespace": namespace, "pod": pod}}]}
            for namespace, pod, port in pods
        ]
        rules = ROOT / "manifests/monitoring/rules.yaml"
        hasty = re.sub(r"\bfor: \w+", "for: 1s", rules.read_text()).replace("- name: imdslet\n", "- name: hasty\n")
        (folder / "hasty.yaml").write_text(hasty)
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs,
                  "rule_files": [str(rules), str(folder / "hasty.yaml")]}
        (folder / "prometheus.yml").write_text(json.dumps(config))
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                   f"--web.listen-address={self.address}"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def get(self, path, **query):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query, doseq=True)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def is_up(self, count):
        try:
            return len([one for one in self.query("up") if one["value"][1] == "1"]) == count
        except OSError:
            return False

    def query(self, text):
        return self.get("query", query=text)["result"]

    def rules(self, group):
        """The alerts of a group of rules."""
        return next(one["rules"] for one in self.get("rules")["groups"] if one["name"] == group)

    def firing(self, group):
        """The names of the alerts of a group that fire."""
        return {rule["name"] for rule in self.rules(group) for alert in rule["alerts"] if alert["state"] == "firing"}

    def labels(self, series):
        """The labels that a series has anywhere."""
        return {label for one in self.get("series", **{"match[]": series}) for label in one}

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder / "data", ignore_errors=True)


def questions():
    """(where it stands, the query) of each panel and each alert."""
    board = json.loads((ROOT / "manifests/monitoring/dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"panel `{panel['title']}`", target["expr"].replace("$__rate_interval", "20s")


def asked_of(query):
    """The series of a query, each with the labels that it is selected by, and the labels that the results are put together by."""
    series = {}
    for name, matchers in SERIES.findall(query):
        series.setdefault(name, set()).update(MATCHED.findall(matchers))
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    return series, {label.strip() for group in groups for label in group.split(",") if label.strip()}


def check(prometheus, place, query):
    """That somebody exports each series that a query names, with the labels that it names."""
    series, together = asked_of(query)
    assert series, f"{place} asks for nothing of imdslet's: {query}"
    has = {name: prometheus.labels(name) for name in series}
    absent = [name for name, labels in has.items() if not labels]
    if absent and any(word in query for word in QUIET):
        # Told of by the documents, which a hermetic test holds against the programs.
        documented = (ROOT / "docs/operations.md").read_text()
        short = lambda name: name.removeprefix("imdslet_").removesuffix("_total")
        unknown = [name for name in absent if f"| `{short(name)}` |" not in documented]
        assert not unknown, f"{place} asks for {unknown}, which no program has"
        return
    assert not absent, f"{place} asks for {absent}, which nobody exports"
    for name, labels in series.items():
        assert labels <= has[name], f"{place}: {name} has no label {labels - has[name]}"
    missing = together - set().union(*has.values())
    assert not missing, f"{place}: nobody has the labels {missing}"


def busy(t, number):
    """One round of what a cluster has to do: pods with and without identities, one that is refused, and a new binding."""
    t.pod(f"more-{number}", label=f"{t.label}-late")
    t.bind(f"{t.label}-late", name=f"late-{number}")
    t.identity(f"also-{number}", another(t, number + 1))
    t.bind(name=f"also-{number}", identity=f"also-{number}")
    refused = lambda: t.pod(f"refused-{number}", annotations={"imdslet.dev/port": "none"})
    assert t.cluster.is_denied(refused, "imdslet.dev/port")


@test
def each_query_of_the_dashboard_and_of_the_alerts_finds_what_the_programs_export(t):
    t.bound()
    t.cluster.set(IMDSLET_SIDECAR_METRICS_PORT=str(METRICS))
    passing = prometheus = None
    try:
        lost = t.other_client_id
        t.cluster.entra.trust(lost, t.namespace)
        t.identity("lost", lost)
        t.bind(name="second", identity="lost")
        asking = [container(ANEW.format(one, lost), f"lost-{number}") for number, one in enumerate(RESOURCES)]
        t.pod(containers=[container(ANEW.format(RESOURCES[0], t.client_id), "kept"), *asking])
        t.verified(container="kept")
        for one in asking:
            assert t.first_answer(container=one["name"])["status"] == 200
        replicas = [pod["metadata"]["name"] for name in ("imdslet-webhook", "imdslet-controller") for pod in t.cluster.pods_of(name)]
        pods = [(SYSTEM, name, HEALTH) for name in replicas] + [(t.namespace, "app", METRICS)]
        passing = Passing(t.api)
        prometheus = Prometheus(t.cluster.folder / "monitoring", passing, pods)
        t.eventually("all pods are scraped", lambda: prometheus.is_up(len(pods)), 30)
        for number in range(ROUNDS):
            busy(t, number)
            if number == ROUNDS // 4:
                # From now on its refreshes fail, and what it has is served on.
                t.cluster.entra.distrust(lost)
            time.sleep(3)
        all_questions = list(questions())
        missing = lambda: [(place, query) for place, query in all_questions
                           if not prometheus.query(query) and not any(word in query for word in QUIET)]
        t.eventually("each panel has something to show", lambda: not missing(), 30)
        rules = [("alert `" + rule["name"] + "`", rule["query"]) for rule in prometheus.rules("imdslet")]
        assert len(rules) == 10, rules
        for place, query in [*all_questions, *rules]:
            check(prometheus, place, query)
        assert not prometheus.firing("imdslet"), f"the alerts {prometheus.firing('imdslet')} do not wait"
        t.eventually("the alerts of what was brought about fire", lambda: TROUBLES <= prometheus.firing("hasty"), 60)
        assert prometheus.firing("hasty") == TROUBLES, prometheus.firing("hasty")
        t.note(f"{len(all_questions)} queries of {len(pods)} pods")
        save(prometheus, t.cluster.folder / "monitoring.json")
    finally:
        if prometheus:
            prometheus.stop()
        if passing:
            passing.close()
        t.cluster.set(IMDSLET_SIDECAR_METRICS_PORT=None)


def save(prometheus, path):
    """What the panels show, for tests/monitoring/draw.py."""
    board = json.loads((ROOT / "manifests/monitoring/dashboard.json").read_text())
    end = time.time()
    shown = []
    for panel in board["panels"]:
        lines = []
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "20s")
            found = prometheus.get("query_range", query=query, start=end - 40, end=end, step=1)["result"]
            lines += [{"labels": one["metric"], "legend": target["legendFormat"], "values": one["values"]} for one in found]
        shown.append({"title": panel["title"], "unit": panel["fieldConfig"]["defaults"]["unit"], "lines": lines})
    path.write_text(json.dumps(shown))
