"""One line for each thing that is tried, and their sum."""

import time


class Report:
    def __init__(self, only):
        self.only = only
        self.passed = self.failed = 0

    def wants(self, name):
        return not self.only or any(word in name for word in self.only)

    def tell(self, name, problem, note="", seconds=None):
        """`problem` is what went wrong, or nothing."""
        if problem:
            self.failed += 1
        else:
            self.passed += 1
        verdict = "FAILED" if problem else "ok"
        time_taken = "" if seconds is None else f" ({seconds:.1f} s)"
        said = f": {problem}" if problem else f": {note}" if note else ""
        print(f"{verdict:6} {name}{time_taken}{said}", flush=True)

    def check(self, name, function, *args):
        """Runs a test; whether it passed."""
        started = time.monotonic()
        problem = None
        try:
            function(*args)
        except Exception as error:  # A test may fail in any way; the next one is to run.
            problem = f"{type(error).__name__}: {error}"
        self.tell(name, problem, seconds=time.monotonic() - started)
        return problem is None
