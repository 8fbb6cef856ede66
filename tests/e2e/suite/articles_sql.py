"""Article 3: a database's own driver signs in, with the pod's identity and no password."""

import json
import shutil

from articles import manifests, of_kind
from entra import TENANT
from harness import test
from machine import TESTS, equip, install
from sql import Database
from stand_ins import Authority, door

SOURCE = TESTS / "e2e/sql"
PORT = 1433


def driver():
    """The folder of Microsoft's JDBC driver, and of what it asks for tokens with."""
    pom = SOURCE / "pom.xml"

    def make(folder):
        # It writes beside its file otherwise.
        shutil.copy(pom, folder)
        settings = [f"-DoutputDirectory={folder}/jars", "-DincludeScope=runtime"]
        install.run("mvn", "-q", "-B", "-ntp", f"-f={folder}/pom.xml", f"{install.COPY}:copy-dependencies", *settings)

    return install.cached("sql-driver", [pom], make) / "jars"


def said(t, pod, name):
    """The line that the client of a container has printed."""
    lines = lambda: [line for line in t.api.logs(t.namespace, pod, name).splitlines(keepends=True)
                     if line.startswith(("signed in", "refused")) and line.endswith("\n")]
    return t.eventually(f"{pod}/{name} has signed in or not", lines, 240)[0].strip()


@test
def article_3_the_driver_of_a_database_signs_in_by_itself_and_whom_it_does_not_know_is_refused(t):
    t.make_namespace()
    things, clients = manifests(t, "3-azure-sql")
    # One more identity of the pod, which the database does not know.
    t.cluster.entra.trust(t.client_id, t.namespace)
    t.identity("stranger")
    t.bind(of_kind(things, "AzureIdentityBinding")["spec"]["Selector"], "stranger", "stranger")
    pod, jars = of_kind(things, "Pod"), driver()
    env = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    authority = Authority(t.cluster.folder / "stand-ins")
    database = Database(t, authority, env["SERVER_NAME"], clients.values(), TENANT)
    try:
        certificate = authority.ca.parent / "sql.crt"
        shutil.copy(database.certificate, certificate)
        url = (f"jdbc:sqlserver://{env['SERVER_NAME']}:{PORT};databaseName={env['DATABASE_NAME']};encrypt=strict;"
               f"serverCertificate={certificate};authentication=ActiveDirectoryManagedIdentity;loginTimeout=120;msiClientId=")
        java = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", str(SOURCE / "Sql.java")]
        wanted = {"known": clients["sqlaad1"], "stranger": t.client_id}
        sample = json.dumps(pod["spec"]["containers"][0])
        pod["spec"]["containers"] = [
            json.loads(sample) | {"name": name, "command": [*java, url + client]} for name, client in wanted.items()]
        pod["spec"]["restartPolicy"] = "Never"
        hosts = {env["SERVER_NAME"]: door(t, "database", database.port, PORT)}
        equip(pod["spec"], jars, SOURCE, hosts=hosts, ca=authority.ca)
        for thing in things:
            t.api.create(thing)
        found = {name: said(t, pod["metadata"]["name"], name) for name in wanted}
    finally:
        database.close()
    assert found["known"] == f"signed in as {clients['sqlaad1']}", found["known"]
    assert found["stranger"].startswith(f"refused: Login failed for user '{t.client_id}'"), found["stranger"]
    assert [claims["appid"] for claims in database.taken] == [clients["sqlaad1"]], database.taken
