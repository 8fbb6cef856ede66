"""Containers that run programs of this machine: its language run times, and what is installed for the tests.

No image can be pulled, so these are mounted from the machine: read-only, and each at its own place.
"""

import glob
import pathlib
import sys

from harness import CLIENT_IMAGE

TESTS = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = TESTS / "e2e/programs"
CLIENTS = TESTS / "clients"
# What tests/clients installs is run here too. Behind the modules of this folder, which have names of their own.
sys.path.append(str(CLIENTS / "suite"))
import install  # noqa: E402

# Debian's /bin and /lib are links, of which a mount would see the end alone.
LINKS = {"/bin": "/usr/bin", "/lib": "/usr/lib", "/lib64": "/usr/lib64"}
# Where run times of /usr keep what they read at start.
SETTINGS = ("/etc/ssl", "/etc/alternatives", "/etc/java-*")


def places(folders):
    """Place in the pod to folder of the machine."""
    settings = [found for pattern in SETTINGS for found in glob.glob(pattern)]
    outside = [folder for folder in map(str, [sys.base_prefix, *folders]) if not f"{folder}/".startswith("/usr/")]
    return LINKS | {folder: folder for folder in ["/usr", *settings, *outside]}


def equip(spec, *folders, hosts=None, ca=None):
    """Has the containers of a pod's `spec` see this machine's programs and `folders`.

    `hosts` gives names their addresses, since there is no DNS; `ca` is the file of whoever signed for them.
    """
    if ca:
        folders = (*folders, ca.parent)
    table = {place: f"machine-{number}" for number, place in enumerate(places(folders))}
    volumes = [{"name": table[place], "hostPath": {"path": folder, "type": "Directory"}}
               for place, folder in places(folders).items()]
    spec["volumes"] = [*spec.get("volumes", []), *volumes, {"name": "machine-tmp", "emptyDir": {}}]
    mounts = [{"name": name, "mountPath": place, "readOnly": True} for place, name in table.items()]
    mounts.append({"name": "machine-tmp", "mountPath": "/tmp"})
    # As Go's programs and OpenSSL read it, and as Python's requests does.
    variables = {"HOME": "/tmp"} | ({"SSL_CERT_FILE": str(ca), "REQUESTS_CA_BUNDLE": str(ca)} if ca else {})
    env = [{"name": name, "value": value} for name, value in variables.items()]
    for one in [*spec.get("initContainers", []), *spec["containers"]]:
        one["image"] = CLIENT_IMAGE
        one.pop("imagePullPolicy", None)
        one["env"] = [*one.get("env", []), *env]
        one["volumeMounts"] = [*one.get("volumeMounts", []), *mounts]
    if hosts:
        spec["hostAliases"] = [{"ip": address, "hostnames": [name]} for name, address in hosts.items()]
    spec.pop("imagePullSecrets", None)
    spec.setdefault("terminationGracePeriodSeconds", 2)
    return spec
