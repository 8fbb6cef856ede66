#!/usr/bin/env python3
"""Compares what Bicep and Terraform say must exist with `migrate -o json`, by other people's parsers."""

import json
import pathlib
import re
import subprocess
import sys

import hcl2
from pycep import BicepParser

ISSUER = "https://issuer.example/cluster/"
TYPE = "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials"


def migrate(program, estate, form):
    command = [program, "migrate", "-f", estate, f"--issuer={ISSUER}", "-o", form]
    done = subprocess.run(command, text=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def wanted(program, estate):
    """By identity, without regard to letter case, what must exist: (name, issuer, subject, audience)."""
    plan = json.loads(migrate(program, estate, "json"))
    found = {}
    for one in plan["federatedCredentials"]:
        if one["resourceId"]:
            row = (one["name"], one["issuer"], one["subject"], one["audiences"][0])
            found.setdefault(one["resourceId"].lower(), set()).add(row)
    assert found, "nothing to compare"
    return found


def unquoted(text):
    """A string of Bicep, of which the parser leaves the escapes as they are."""
    return re.sub(r"\\(.)", r"\1", text)


def strings(value):
    """All strings inside of what the parser gives."""
    if isinstance(value, str):
        return {unquoted(value)}
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return set().union(*map(strings, inside))


def bicep(text, places):
    """What the file would deploy, to all of its resource groups together."""
    text = BicepParser().parse(text=text)
    variables = {name: one["value"] for name, one in text["variables"].items()}
    found = {}
    for resource in text["resources"].values():
        assert resource["type"] == TYPE, resource
        assert resource["decorators"] == [{"type": "batchSize", "argument": 1}], resource
        chosen = variables[resource["config"]["loop_type"]["detail"]["array_name"]]["operator"]
        assert chosen["type"] == "conditional" and chosen["operands"]["false_value"] == [], chosen
        condition = strings(variables[chosen["operands"]["condition"]])
        [group] = [f"{one[0]}/{one[1]}" for one in places if condition >= set(one)]
        rows = chosen["operands"]["true_value"]
        [identity] = {unquoted(row["name"]).split("/")[0] for row in rows}
        name = f"{group}/{identity}".lower()
        assert name not in found, f"two loops for {name}"
        found[name] = {
            (unquoted(row["name"]).split("/")[1], *(unquoted(row[key]) for key in ("issuer", "subject", "audience")))
            for row in rows
        }
    return found


def terraform(text, _):
    """What the file would create; the resources of one identity must be one chain."""
    text = hcl2.loads(text)
    found, after, labels = {}, {}, set()
    plain = lambda value: value.strip('"').replace("$${", "${").replace("%%{", "%{")
    for block in text["resource"]:
        [(kind, inside)] = [(key, value) for key, value in block.items() if not key.startswith("__")]
        [(label, one)] = [(key, value) for key, value in inside.items() if not key.startswith("__")]
        assert plain(kind) == "azurerm_federated_identity_credential", kind
        assert label not in labels, f"{label} twice"
        labels.add(label)
        parent = plain(one["parent_id"]).lower()
        assert plain(one["resource_group_name"]).lower() == parent.split("/")[4], one
        # As azurerm insists on it, whatever the AzureIdentity has.
        assert re.fullmatch(
            r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.ManagedIdentity/userAssignedIdentities/[^/]+",
            plain(one["parent_id"])), one
        row = (plain(one["name"]), plain(one["issuer"]), plain(one["subject"]), plain(one["audience"][0]))
        found.setdefault(parent, set()).add(row)
        before = [re.sub(r"^\$\{|\}$|^azurerm_federated_identity_credential\.", "", name)
                  for name in one.get("depends_on", [])]
        after.setdefault(parent, {})[plain(label)] = [name.split(".")[-1] for name in before]
    for parent, links in after.items():
        heads = [label for label, before in links.items() if not before]
        assert len(heads) == 1, f"{parent} has {len(heads)} beginnings"
        named = [name for before in links.values() for name in before]
        assert len(set(named)) == len(links) - 1 and set(named) <= set(links), f"{parent} is no chain: {links}"
    return found


def main():
    program, estates = sys.argv[1], sys.argv[2:]
    passed = failed = 0
    for estate in estates:
        name = pathlib.Path(estate).stem
        all_wanted = wanted(program, estate)
        parts = {key: key.split("/") for key in all_wanted}
        by_place = {f"{parts[key][2]}/{parts[key][4]}/{parts[key][8]}": rows for key, rows in all_wanted.items()}
        places = {(one[2], one[4]) for one in parts.values()}
        for form, read, expected in (("bicep", bicep, by_place), ("terraform", terraform, all_wanted)):
            try:
                found = read(migrate(program, estate, form), places)
                assert found == expected, f"found {found}\nwanted {expected}"
                passed += 1
                rows = sum(map(len, found.values()))
                print(f"ok     {name}, {form}: {rows} credentials of {len(found)} identities")
            except Exception as error:  # A parser may fail in any way; the next plan is to be read.
                failed += 1
                print(f"FAILED {name}, {form}: {type(error).__name__}: {str(error)[:2000]}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
