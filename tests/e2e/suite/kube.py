"""A client of the API server, as small as the tests need it: JSON over HTTPS, no packages."""

import concurrent.futures
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

# Kind: (path of its group, plural, whether it lives in a namespace).
KINDS = {
    "Namespace": ("api/v1", "namespaces", False),
    "Pod": ("api/v1", "pods", True),
    "Binding": ("api/v1", "bindings", True),
    "Secret": ("api/v1", "secrets", True),
    "ConfigMap": ("api/v1", "configmaps", True),
    "Event": ("api/v1", "events", True),
    "Service": ("api/v1", "services", True),
    "LimitRange": ("api/v1", "limitranges", True),
    "ResourceQuota": ("api/v1", "resourcequotas", True),
    "ServiceAccount": ("api/v1", "serviceaccounts", True),
    "Deployment": ("apis/apps/v1", "deployments", True),
    "DaemonSet": ("apis/apps/v1", "daemonsets", True),
    "ReplicaSet": ("apis/apps/v1", "replicasets", True),
    "StatefulSet": ("apis/apps/v1", "statefulsets", True),
    "CronJob": ("apis/batch/v1", "cronjobs", True),
    "Job": ("apis/batch/v1", "jobs", True),
    "Lease": ("apis/coordination.k8s.io/v1", "leases", True),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies", True),
    "EndpointSlice": ("apis/discovery.k8s.io/v1", "endpointslices", True),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "SubjectAccessReview": ("apis/authorization.k8s.io/v1", "subjectaccessreviews", False),
    "MutatingWebhookConfiguration": (
        "apis/admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", False),
    "ValidatingWebhookConfiguration": (
        "apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", False),
    "ValidatingAdmissionPolicy": (
        "apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies", False),
    "CustomResourceDefinition": (
        "apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "ValidatingAdmissionPolicyBinding": (
        "apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", False),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "CSIDriver": ("apis/storage.k8s.io/v1", "csidrivers", False),
    "SecretProviderClass": ("apis/secrets-store.csi.x-k8s.io/v1", "secretproviderclasses", True),
    "AzureIdentity": ("apis/aadpodidentity.k8s.io/v1", "azureidentities", True),
    "AzureIdentityBinding": ("apis/aadpodidentity.k8s.io/v1", "azureidentitybindings", True),
    "AzureAssignedIdentity": ("apis/aadpodidentity.k8s.io/v1", "azureassignedidentities", True),
    "AzurePodIdentityException": ("apis/aadpodidentity.k8s.io/v1", "azurepodidentityexceptions", True),
}
DEADLINE = 30
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """Speaks as the cluster's administrator, or, with `user`, as somebody else."""

    def __init__(self, server, ca_file, token):
        self.server = server
        self.token = token
        self.tls = ssl.create_default_context(cafile=ca_file)

    def open(self, method, path, body=None, content_type="application/json", user=None, deadline=DEADLINE):
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json, */*;q=0.5"}
        if user:
            headers["Impersonate-User"] = user
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server}/{path}", data, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=deadline, context=self.tls)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError):
                pass
            raise Refused(error.code, text) from None

    def text(self, method, path, **options):
        with self.open(method, path, **options) as answer:
            return answer.read().decode(errors="replace")

    def json(self, method, path, **options):
        return json.loads(self.text(method, path, **options))

    @staticmethod
    def path(kind, namespace=None, name=None, sub=None, **query):
        group, plural, namespaced = KINDS[kind]
        parts = [group]
        if namespaced and namespace:
            parts.append(f"namespaces/{namespace}")
        parts += [part for part in (plural, name, sub) if part]
        text = "/".join(parts)
        return f"{text}?{urllib.parse.urlencode(query)}" if query else text

    def create(self, thing, **options):
        metadata = thing["metadata"]
        path = self.path(thing["kind"], metadata.get("namespace"))
        return self.json("POST", path, body=thing, **options)

    def create_all(self, things, connections=16):
        """Creates very many objects, over some connections that are kept."""
        with concurrent.futures.ThreadPoolExecutor(connections) as pool:
            list(pool.map(self.create_over_one, [things[at::connections] for at in range(connections)]))

    def create_over_one(self, things):
        host = urllib.parse.urlsplit(self.server).netloc
        connection = http.client.HTTPSConnection(host, timeout=DEADLINE, context=self.tls)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        for thing in things:
            path = self.path(thing["kind"], thing["metadata"].get("namespace"))
            connection.request("POST", f"/{path}", json.dumps(thing), headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 201:
                raise Refused(answer.status, text)
        connection.close()

    def get(self, kind, namespace=None, name=None):
        return self.json("GET", self.path(kind, namespace, name))

    def find(self, kind, namespace=None, name=None):
        """The object, or None."""
        try:
            return self.get(kind, namespace, name)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind, namespace=None, **query):
        return self.json("GET", self.path(kind, namespace, **query))["items"]

    def patch(self, kind, namespace, name, change, sub=None, user=None):
        path = self.path(kind, namespace, name, sub)
        return self.json("PATCH", path, body=change, content_type=MERGE, user=user)

    def delete(self, kind, namespace, name, user=None, grace=None):
        query = {} if grace is None else {"gracePeriodSeconds": grace}
        return self.json("DELETE", self.path(kind, namespace, name, **query), user=user)

    def logs(self, namespace, pod, container, **query):
        """What a container has said so far; nothing where it has not started."""
        path = self.path("Pod", namespace, pod, "log", container=container, **query)
        try:
            return self.text("GET", path)
        except Refused as error:
            if error.status in (400, 404):
                return ""
            raise

    def watch(self, kind, namespace, seconds):
        """Yields (time of arrival, type, object), beginning with what there is."""
        path = self.path(kind, namespace, watch="1", timeoutSeconds=seconds)
        with self.open("GET", path, deadline=seconds + 5) as answer:
            for line in answer:
                event = json.loads(line)
                yield time.time(), event["type"], event["object"]
