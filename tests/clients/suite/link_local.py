"""Link-local mode: what the init container does to a network namespace, and what it refuses."""

import os
import socket
import subprocess
import threading

from pod import PROGRAMS, UID, run

ANNOTATIONS = {"imdslet.dev/endpoint": "link-local"}
IMDS = "http://169.254.169.254/metadata/identity/oauth2/token"
# curl's exit codes where a connection is closed without an answer.
CURL_EMPTY, CURL_RESET = 52, 56
QUERY = "api-version=2018-02-01&resource=https://vault.azure.net"


def addresses():
    done = run("ip", "-4", "-oneline", "address", "show", "dev", "lo")
    assert done.returncode == 0, done.stderr
    return [line.split()[3] for line in done.stdout.splitlines()]


def the_app_gets_no_variable_of_an_endpoint(pod):
    assert pod.environment("app") == {}, pod.environment("app")


def without_net_admin_it_says_what_is_missing(pod):
    done = pod.run_address("-all")
    assert done.returncode == 1 and "NET_ADMIN" in done.stdout, done
    assert addresses() == ["127.0.0.1/8"], addresses()


def where_a_kubelet_listens_it_refuses(pod):
    listen = "import socket; s = socket.create_server(('', 10250)); print('up', flush=True); s.accept()"
    kubelet = subprocess.Popen(["python3", "-c", listen], stdout=subprocess.PIPE, text=True)
    try:
        assert kubelet.stdout.readline() == "up\n"
        done = pod.add_address()
    finally:
        kubelet.kill()
        kubelet.wait()
    assert done.returncode == 1 and "a kubelet listens here" in done.stdout, done
    assert addresses() == ["127.0.0.1/8"], addresses()


def without_the_address_the_sidecar_says_who_adds_it(pod):
    try:
        pod.start_sidecar()
    except AssertionError as error:
        assert "imdslet-address" in str(error), error
    else:
        raise AssertionError("it listens on an address that is not there")


def with_net_admin_alone_it_adds_the_address(pod):
    done = pod.add_address()
    assert done.returncode == 0, done
    assert '"already":false' in done.stdout, done.stdout
    assert addresses() == ["127.0.0.1/8", "169.254.169.254/32"], addresses()


def a_second_time_changes_nothing(pod):
    done = pod.add_address()
    assert done.returncode == 0 and '"already":true' in done.stdout, done
    assert addresses() == ["127.0.0.1/8", "169.254.169.254/32"], addresses()


def without_the_sysctl_the_sidecar_says_so(pod):
    try:
        pod.start_sidecar()
    except AssertionError as error:
        assert "ip_unprivileged_port_start" in str(error), error
    else:
        raise AssertionError("port 80 was open to it")


def the_sidecar_listens_without_any_capability(pod):
    pod.set_sysctls()
    pod.start_sidecar()
    # The kernel hides what an undumpable process can do from nobody.
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{pod.sidecar.pid}/status").read().splitlines())
    found = {name: status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}
    assert found == {"CapPrm": "0" * 16, "CapEff": "0" * 16, "CapBnd": "0" * 16, "CapAmb": "0" * 16, "NoNewPrivs": "1"}, found
    assert status["Uid"].split() == ["2579"] * 4, status["Uid"]


def it_answers_at_the_address(pod):
    status, body = pod.ask(f"{IMDS}?{QUERY}", Metadata="true")
    assert status == 200, body
    # It is the same endpoint as that on the loopback.
    _, state = pod.ask("http://127.0.0.1:2579/state")
    first = state["identities"][0]
    assert first["name"] == "web/first" and len(first["tokens"]) == 1, state


def it_refuses_what_a_browser_or_a_proxy_sends(pod):
    url = f"{IMDS}?{QUERY}"
    for headers in ({"Host": "attacker.example"}, {"X_Forwarded_For": "10.0.0.1"}, {"Origin": "http://169.254.169.254"}):
        status, body = pod.ask(url, Metadata="true", **headers)
        assert status == 403, (headers, status, body)
    status, body = pod.ask(url)
    assert status == 400 and body["error_description"] == "Required metadata header not specified", body


def it_tells_its_state_on_the_loopback_only(pod):
    status, body = pod.ask("http://169.254.169.254/state")
    assert status == 403, body


def the_header_of_app_service_is_still_checked(pod):
    for value, expected in ((UID, 200), ("another", 403)):
        status, body = pod.ask(f"http://169.254.169.254/msi/token?api-version=2019-08-01&resource=https://vault.azure.net", X_IDENTITY_HEADER=value)
        assert status == expected, body


def it_serves_nobody_outside_the_pod(pod):
    """A neighbour on the pod's link needs but a route to reach an address of the pod's loopback."""
    name = f"neighbour-{os.getpid()}"
    here, there = "10.79.0.1", "10.79.0.2"
    neighbour = subprocess.Popen(["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sh", "-c", "echo up; exec sleep 60"],
                                 stdout=subprocess.PIPE, text=True)
    try:
        assert neighbour.stdout.readline() == "up\n"
        inside = ["nsenter", f"--net=/proc/{neighbour.pid}/ns/net"]
        for command in (
            ["ip", "link", "add", name[:15], "type", "veth", "peer", "name", "pod0", "netns", str(neighbour.pid)],
            ["ip", "address", "add", f"{here}/30", "dev", name[:15]],
            ["ip", "link", "set", name[:15], "up"],
            [*inside, "ip", "address", "add", f"{there}/30", "dev", "pod0"],
            [*inside, "ip", "link", "set", "pod0", "up"],
            [*inside, "ip", "route", "add", "169.254.169.254/32", "via", here],
        ):
            subprocess.run(command, check=True)
        curl = [*inside, "curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10", "--header", "Metadata: true"]
        # Another server at the address shows that the way leads there.
        with socket.create_server(("169.254.169.254", 8080)) as other:
            answer = threading.Thread(target=answer_once, args=(other,))
            answer.start()
            reached = subprocess.run([*curl, "http://169.254.169.254:8080/"], capture_output=True, text=True)
            answer.join()
        assert (reached.returncode, reached.stdout) == (0, "reached"), reached
        asked = subprocess.run([*curl, f"{IMDS}?{QUERY}"], capture_output=True, text=True)
    finally:
        neighbour.kill()
        neighbour.wait()
    assert asked.returncode in (CURL_EMPTY, CURL_RESET) and not asked.stdout, asked
    assert '"reason":"ForeignClient"' in pod.log.read_text(), pod.log.read_text()
    it_answers_at_the_address(pod)


def answer_once(server):
    server.settimeout(10)
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached")


# In this order: each one finds what the one before has left.
TESTS = [
    the_app_gets_no_variable_of_an_endpoint,
    without_net_admin_it_says_what_is_missing,
    where_a_kubelet_listens_it_refuses,
    without_the_address_the_sidecar_says_who_adds_it,
    with_net_admin_alone_it_adds_the_address,
    a_second_time_changes_nothing,
    without_the_sysctl_the_sidecar_says_so,
    the_sidecar_listens_without_any_capability,
    it_answers_at_the_address,
    it_refuses_what_a_browser_or_a_proxy_sends,
    it_tells_its_state_on_the_loopback_only,
    the_header_of_app_service_is_still_checked,
    it_serves_nobody_outside_the_pod,
]


def in_the_first_network_namespace_it_refuses():
    """Run outside: there is nothing to lose but one address, which is checked."""
    before = addresses()
    done = run(PROGRAMS / "imdslet-sidecar", "address")
    assert done.returncode == 1 and "a node's network" in done.stdout, done
    assert addresses() == before, addresses()
