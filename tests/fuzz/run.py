"""A coverage-guided fuzzer for what reads values: `make fuzz`, or `python tests/fuzz/run.py -h`.

Builds the decoder's modules once more, under build/fuzz, with AddressSanitizer, UBSan and gcc's
coverage hooks (nothing that a compiler alone does not bring: no libFuzzer, no AFL).
`fuzz_driver.pyx` mutates and decodes, in a forked child for each batch, so that a crash costs the
batch and no more: the input that did it stands in shared memory.  New coverage joins the corpus in
build/fuzz/corpus, findings are made smaller and put into build/fuzz/findings; what has been mended
moves on into tests/fuzz/cases.zip, which the short suite decodes.

The child cannot unpickle, import, or look up anything but a few names of its own: see `prepare`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import sanitized  # noqa: E402

BUILD = sanitized.ROOT / "build" / "fuzz"
# The decoder, and what it stands on.
MODULES = [
    "arena", "arrow_block", "arrow_decode", "arrow_encode", "arrow_format", "arrow_layout",
    "arrow_numpy", "arrow_pickle", "by_reference", "compact", "private_copy", "serializer",
]  # fmt: skip
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
COVERAGE = ["-fsanitize-coverage=trace-pc,trace-cmp"]
BATCH = 100_000
# Growth of a child in one batch, beyond what its new corpus takes, that is called a leak.
LEAK_BLOCKS = 3000


def build() -> None:
    """Make the fuzz build, or bring it up to date."""
    sanitized.build(BUILD, MODULES, HERE / "fuzz_driver.pyx", SANITIZE, instrument=COVERAGE)
    # Without the flag itself, and a library of its own, since all modules share its tables.
    target, source = BUILD / "libpyraycover.so", HERE / "cover.c"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        command = [sanitized.compiler(), "-O2", "-shared", "-fPIC", "-o", str(target), str(source)]
        subprocess.run(command, check=True)


def environment() -> dict[str, str]:
    return sanitized.environment(
        BUILD,
        [str(BUILD / "libpyraycover.so"), sanitized.library("libasan.so")],
        # A decoder that asks for more than 64 MB for an input of 16 KB is to be found out.
        ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:quarantine_size_mb=16:"
        "max_allocation_size_mb=64:allocator_may_return_null=0:abort_on_error=1:handle_segv=1",
        UBSAN_OPTIONS="print_stacktrace=1:abort_on_error=1",
        PYTHONHASHSEED="0",
    )


def load(driver: ModuleType) -> tuple[mmap.mmap, ModuleType]:
    shared = mmap.mmap(-1, driver.STATE_BYTES)
    driver.prepare(shared)
    return shared, driver


class Run:
    """One format's corpus, and the batches that are run on it."""

    def __init__(self, driver: ModuleType, target: str, seed: int) -> None:
        self.driver = driver
        self.target = target
        self.seed = seed
        self.format = "store" if target == "writable" else target
        self.folder = BUILD / "corpus" / target
        self.folder.mkdir(parents=True, exist_ok=True)
        self.findings: dict[str, Path] = {}
        self.history: list[tuple[int, int]] = []
        self.corpus = self._read()
        self.batches = 0

    def _read(self) -> list[bytes]:
        folders = [BUILD / "seeds" / self.format, self.folder]
        files = [f for folder in folders if folder.is_dir() for f in sorted(folder.iterdir())]
        return [f.read_bytes() for f in files] or [b"seed", bytes(64)]

    def child(self, work: object, log: Path) -> int:
        """Run something in a forked child; its status, as waitpid gives it."""
        pid = os.fork()
        if pid == 0:
            status = 99
            with contextlib.suppress(BaseException):
                out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(out, 2)
                try:
                    work()  # type: ignore[operator]
                    status = 0
                except BaseException as error:
                    status = 98
                    traceback.print_exception(error)
            sys.stderr.flush()
            os._exit(status)
        return os.waitpid(pid, 0)[1]

    def replay(self) -> None:
        """Run the corpus once, for the coverage that it has already."""
        at = 0

        def work() -> None:
            for i in range(at, len(self.corpus)):
                position[0] = i
                self.driver.once(self.corpus[i], self.target)

        position = memoryview(mmap.mmap(-1, 8)).cast("q")
        while at < len(self.corpus):
            status = self.child(work, BUILD / f"{self.target}.log")
            if status == 0:
                break
            self.note(status, self.corpus[position[0]])
            at = position[0] + 1

    def batch(self, count: int) -> None:
        self.batches += 1
        before = len(self.corpus)

        def work() -> None:
            blocks = sys.getallocatedblocks()
            self.driver.batch(self.corpus, self.target, self.seed + self.batches, count)
            # Each input of the corpus is a block or two, and the list grows.
            grown = sys.getallocatedblocks() - blocks - 2 * (len(self.corpus) - before)
            if grown > LEAK_BLOCKS:
                raise MemoryError(f"{grown} blocks of memory were not given back")

        status = self.child(work, BUILD / f"{self.target}.log")
        for data in self.driver.found():
            self.corpus.append(data)
            name = hashlib.sha1(data).hexdigest()[:16]
            (self.folder / name).write_bytes(data)
        if status:
            self.note(status, self.driver.current())
        executed, _, _, edges = self.driver.figures()
        self.history.append((executed, edges))

    def signature(self, status: int) -> str:
        """What tells one finding from another: the end, and the place that the log names."""
        text = (BUILD / f"{self.target}.log").read_text(errors="replace")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            return "timeout"
        places = re.findall(r"#\d+ 0x\w+ in (__pyx_\w+|\w*pyray\w*)", text)[:2]
        kinds = re.findall(r"ERROR: AddressSanitizer: ([\w-]+)|runtime error: ([^\n]{,60})", text)
        last = text.strip().splitlines()[-1:] or [""]
        kind = "".join(kinds[0]) if kinds else re.sub(r"\d+", "N", last[0])[:80]
        return f"{kind} {' '.join(places)} status {status}"

    def note(self, status: int, data: bytes) -> None:
        what = self.signature(status)
        if what in self.findings:
            return
        name = hashlib.sha1(what.encode()).hexdigest()[:12]
        folder = BUILD / "findings"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(BUILD / f"{self.target}.log", folder / f"{self.target}-{name}.log")
        data = self.smaller(data, what)
        path = folder / f"{self.target}-{name}"
        path.write_bytes(data)
        self.findings[what] = path
        print(f"  FOUND: {what}\n         {len(data)} bytes in {path}", flush=True)

    def smaller(self, data: bytes, what: str) -> bytes:
        """A shorter input, or one with more zeros, that ends the same way."""
        rng = random.Random(0)

        def same(made: bytes) -> bool:
            status = self.child(
                lambda: self.driver.once(made, self.target), BUILD / f"{self.target}.log"
            )
            return status != 0 and self.signature(status) == what

        if not data or not same(data):
            return data  # it took the batch to get there
        for _ in range(400):
            made = bytearray(data)
            at = rng.randrange(len(made))
            size = 1 << rng.randrange(0, max(1, len(made)).bit_length())
            if rng.random() < 0.5:
                del made[at : at + size]
            else:
                made[at : at + size] = bytes(len(made[at : at + size]))
            if made and bytes(made) != data and same(bytes(made)):
                data = bytes(made)
        return data


def work(args: argparse.Namespace) -> int:
    """The fuzzing itself, in a process that began with the sanitizer's library."""
    sys.path.insert(0, str(BUILD / "lib"))
    import fuzz_driver

    status = 0
    for target in args.target:
        shared, driver = load(fuzz_driver)
        run = Run(driver, target, args.seed)
        start = time.monotonic()
        run.replay()
        replayed, _, _, first = driver.figures()
        shown = start
        while driver.figures()[0] - replayed < args.inputs:
            left = args.inputs - (driver.figures()[0] - replayed)
            run.batch(min(BATCH, left))
            if args.stop and run.findings:
                break
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                report(run, replayed, first, start)
        report(run, replayed, first, start)
        status = status or (1 if run.findings else 0)
        del shared
    return status


def report(run: Run, replayed: int, first: int, start: float) -> None:
    executed, whole, pickles, edges = run.driver.figures()
    seconds = time.monotonic() - start
    done = executed - replayed
    marks = [run.history[len(run.history) * i // 4 - 1][1] for i in (1, 2, 3) if run.history]
    print(
        f"{run.target}: {done:,} inputs in {seconds:.0f} s ({done / seconds:,.0f}/s), "
        f"{whole:,} whole values, {pickles:,} times at the unpickler, edges {first} -> {edges} "
        f"(at quarters {marks}), corpus {len(run.corpus)}, {len(run.findings)} findings",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each format")
    parser.add_argument("--seed", type=int, default=int(time.time()) & 0xFFFFFF)
    parser.add_argument("--stop", action="store_true", help="at the first finding")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("target", nargs="*", default=["store", "writable", "compact"])
    args = parser.parse_args()
    if args.inside:
        return work(args)
    build()
    if not (BUILD / "seeds").is_dir():
        command = [sys.executable, str(HERE / "seeds.py"), str(BUILD / "seeds")]
        subprocess.run(command, check=True, env=environment(), cwd=BUILD)
    print(f"fuzzing with seed {args.seed}", flush=True)
    # A process for each format: what one has loaded is no other's coverage.
    inside = [sys.executable, __file__, "--inside", f"--seed={args.seed}"]
    inside += [f"--inputs={args.inputs}"] + ["--stop"] * args.stop
    codes = [subprocess.call([*inside, t], env=environment(), cwd=BUILD) for t in args.target]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
