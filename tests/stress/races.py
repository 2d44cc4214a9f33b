"""The core's queues, reference counts and allocators under ThreadSanitizer: `make test-tsan`.

ThreadSanitizer sees the threads of one process, and pyray's users are processes.  So the modules in
question are built once more, with each of their variables made a thread's own, as it is a process's
own otherwise; then a thread with a slot and a Ctx does all that a process does.  `race_driver.pyx`
drives them; what it reads was written by another thread without any ordering but the core's.

`--broken` builds a variant whose compare-and-swaps order nothing, and expects to be told: it shows
that a missing barrier would be found.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import sanitized  # noqa: E402

MODULES = ["arena", "dispatch", "heap", "mailboxes", "objects", "queues", "records", "shm"]
# Whose variables are private to a process: lists of free blocks, where the last scan ended.
PRIVATE = ["arena", "heap", "queues", "records"]
RUN = """
import sys
import race_driver
print(race_driver.run_all(*map(int, sys.argv[1:])))
"""


def unordered(name: str, text: str) -> str:
    """The core's atomics with compare-and-swaps that order nothing around them."""
    if name != "atomics.h":
        return text
    swap = "__ATOMIC_SEQ_CST,           \\\n" + 43 * " " + "__ATOMIC_SEQ_CST);"
    assert text.count(swap) == 1
    return text.replace(swap, swap.replace("SEQ_CST", "RELAXED"))


def run(folder: Path, threads: int, ops: int, seed: int) -> tuple[int, str]:
    """Exit status (66: there were reports) and output."""
    command = [sys.executable, "-c", RUN, str(threads), str(ops), str(seed)]
    # Its shadow memory has fixed places, which a kernel that spreads mappings widely may take.
    still = ["setarch", platform.machine(), "-R"]
    options = f"exitcode=66 history_size=4 suppressions={HERE / 'tsan.supp'}"
    env = sanitized.environment(folder, [sanitized.library("libtsan.so")], TSAN_OPTIONS=options)
    done = subprocess.run([*still, *command], env=env, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def summaries(text: str) -> list[str]:
    return sorted(set(re.findall(r"SUMMARY: ThreadSanitizer: .*", text)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--ops", type=int, default=400_000, help="steps of each thread")
    parser.add_argument("--seed", type=int, default=int(time.time()) & 0xFFFF)
    parser.add_argument("--broken", action="store_true", help="the variant that must be reported")
    parser.add_argument("--show", action="store_true", help="whole reports")
    args = parser.parse_args()
    name = "race-broken" if args.broken else "race"
    folder = sanitized.ROOT / "build" / name
    sanitized.build(
        folder,
        MODULES,
        HERE / "race_driver.pyx",
        ["-fsanitize=thread"],
        thread_local=PRIVATE,
        edit=unordered if args.broken else None,
    )
    start = time.monotonic()
    status, text = run(folder, args.threads, args.ops, args.seed)
    found = summaries(text)
    if args.show or (status and not found):
        print(text)
    for line in found:
        print(line)
    if not args.show and text.startswith("{"):
        print(text.splitlines()[0])
    elif "{'ops'" in text:
        print(text[text.index("{'ops'") :].splitlines()[0])
    print(
        f"{args.threads} threads, seed {args.seed}: {len(found)} kinds of report, "
        f"exit {status}, {time.monotonic() - start:.0f} s"
    )
    if args.broken:
        return 0 if found else 1
    return status


if __name__ == "__main__":
    sys.exit(main())
