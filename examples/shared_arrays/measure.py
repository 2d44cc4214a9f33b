"""Time and peak memory of the same work done in several ways, for the examples beside this file."""

import contextlib
import importlib
import importlib.util
import os
import threading
import time
from pathlib import Path

import psutil

WORKERS = 2


def held():
    """Bytes that this process and all below it hold: each page once, however many have it mapped.

    That is what they have of their own, their shares of files that several have mapped (PSS), and
    shared memory by what is allocated of its files, since pages of these may lie in no process's
    page tables at the moment. Resident sizes would count what is shared once for each process.
    """
    total, files = 0, {}
    own = psutil.Process()
    for pid in [own.pid, *(child.pid for child in own.children(recursive=True))]:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_File:")):
                    total += int(line.split()[1]) << 10
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(link).startswith(("/dev/shm/", "/memfd:")):
                        file = os.stat(link)
                        files[file.st_dev, file.st_ino] = file.st_blocks * 512
    return total + sum(files.values())


class Peak(threading.Thread):
    """Samples what is held, until `stop`; may miss a very short peak."""

    def __init__(self):
        super().__init__(daemon=True)
        self.least = self.most = held()
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.005):
            self.most = max(self.most, held())

    def stop(self):
        self.done.set()
        self.join()
        return self.most - self.least


def session(module):
    """A session of pyray or Ray, which have the same interface."""
    ray = importlib.import_module(module)
    options = {"include_dashboard": False, "log_to_driver": False} if module == "ray" else {}
    ray.init(num_cpus=WORKERS, **options)
    return ray


def compare(contenders, arguments, small, look, rounds=3):
    """Print a line for each contender, by name.

    A contender is a generator function that starts its workers and yields a function that does the
    work: it takes `arguments`, and gives what comes out to `look`. It is first called with `small`
    ones, so that the workers have imported what they need. Memory is measured in one session, whose
    pages are nearly all new, and time in another, where nobody samples.
    """

    def ready(work):
        for _ in range(5):
            work(*small, lambda result: None)
        return work

    print(f"{'':<32}{'at rest':>10}{'more at the peak':>18}{'first run':>12}{'best':>9}")
    for name, contender in contenders.items():
        if name.startswith("Ray") and importlib.util.find_spec("ray") is None:
            print(f"{name:<32}Ray is not installed here")
            continue
        start = contextlib.contextmanager(contender)
        with start() as work:
            ready(work)
            peak = Peak()
            peak.start()
            work(*arguments, look)
            more = peak.stop()
        times = []
        with start() as work:
            ready(work)
            for _ in range(rounds):
                started = time.perf_counter()
                work(*arguments, look)
                times.append(time.perf_counter() - started)
        memory = f"{peak.least / 1e6:>7.0f} MB{more / 1e6:>15.1f} MB"
        print(f"{name:<32}{memory}{times[0]:>10.2f} s{min(times):>7.2f} s", flush=True)
