"""Ten thousand identities and ten thousand bindings."""

import concurrent.futures
import time

from harness import heavy

MANY = 10_000
WORKERS = 8


def create_all(t, count):
    """As many identities, each with a binding, none of them of this test's pods."""
    def one(number):
        name = f"many-{number}"
        t.identity(name, f"d0000000-0000-4000-8000-{number:012}")
        t.bind(name, name, name)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(one, range(count)):
            pass


@heavy
def ten_thousand_identities_and_bindings_are_served(t):
    t.bound()
    began = time.time()
    create_all(t, MANY)
    t.note(f"created in {time.time() - began:.0f} s")
    t.pod()
    t.verified()
    name = f"many-{MANY - 1}"
    t.cluster.entra.trust(f"d0000000-0000-4000-8000-{MANY - 1:012}", t.namespace)
    t.pod("last", name)
    t.verified("last", client_id=f"d0000000-0000-4000-8000-{MANY - 1:012}")
    t.cluster.restart("imdslet-webhook")
    t.cluster.wait_for_rollout("imdslet-webhook")
    t.pod("again")
    t.verified("again")
