"""Requests of .NET clients by hand, since no .NET SDK can be had: `dotnet.py CLIENT SELECTOR…`.

Read in their sources: MSAL.NET 4.87.0 (AppServiceManagedIdentitySource, ImdsManagedIdentitySource,
and the probe of Azure.Identity's DefaultAzureCredential), and Azure.Identity's first copies that
know MSI_ENDPOINT and no IDENTITY_ENDPOINT. Output as in ../node/client.js.
"""

import datetime
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request

IMDS = "http://169.254.169.254/metadata/identity"
RESOURCE = os.environ["SCOPE"].removesuffix("/.default")


def get(url, query, headers):
    request = urllib.request.Request(f"{url}?{urllib.parse.urlencode(query)}" if query else url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def msal(name, value):
    endpoint = os.environ.get("IDENTITY_ENDPOINT")
    if endpoint:
        query = {"api-version": "2019-08-01", "resource": RESOURCE}
        headers = {"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]}
        names = {"resource_id": "mi_res_id"}
    else:
        # Before its first request: which metadata service is this? 404 means the first version of it.
        status, _ = get(f"{IMDS}/getplatformmetadata", {"cred-api-version": "2.0"}, {"Metadata": "true"})
        assert status == 404, f"getplatformmetadata answers {status}"
        endpoint, headers = f"{IMDS}/oauth2/token", {"Metadata": "true"}
        query = {"api-version": "2018-02-01", "resource": RESOURCE}
        names = {"resource_id": "msi_res_id"}
    if value:
        query[names.get(name, name)] = value
    return get(endpoint, query, headers)


def default(name, value):
    """DefaultAzureCredential probes IMDS without the header, and goes on only at a 400."""
    if "IDENTITY_ENDPOINT" not in os.environ:
        query = {"api-version": "2018-02-01", "resource": RESOURCE}
        status, body = get(f"{IMDS}/oauth2/token", query, {})
        assert status == 400 and "Identity not found" not in str(body), f"the probe is answered {status} {body}"
    return msal(name, value)


def first(name, value):
    if "MSI_ENDPOINT" not in os.environ:
        return msal(name, value)
    query = {"api-version": "2017-09-01", "resource": RESOURCE}
    if value:
        query["clientid"] = value
    return get(os.environ["MSI_ENDPOINT"], query, {"secret": os.environ["MSI_SECRET"]})


def moment(text):
    """`expires_on` as DateTimeOffset reads it where it is no number."""
    return int(text) if text.isdigit() else int(datetime.datetime.strptime(text, "%m/%d/%Y %H:%M:%S %z").timestamp())


for selector in sys.argv[2:]:
    name, _, value = selector.partition("=")
    try:
        status, body = {"msal": msal, "default": default, "first": first}[sys.argv[1]](name, value)
        assert status == 200, f"{status} {body}"
        line = {"token": body["access_token"], "expires_on": moment(body["expires_on"])}
    except Exception as error:  # Whatever goes wrong is the answer.
        line = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"selector": name, **line}))
