"""Run the Python blocks of a Markdown page: ``python tests/run_page.py docs/actors.md``.

All blocks of a page run in order, in one namespace that is ``__main__``, as if the page were a
script; tracebacks name the page and its lines. A ``text`` block that follows a block says what that
is to print: ``…`` stands for anything, and seconds, process IDs and long hexadecimal numbers need
not be the same.

A block that cannot run here has ``<!-- not run: why -->`` on the line before its fence.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(
    r"(?:^[ ]*<!-- not run: (?P<why>[^\n]*?) -->\n)?"
    r"^(?P<indent>[ ]*)```python\n(?P<code>.*?)^(?P=indent)```\n"
    r"(?:\s*^(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```\n)?",
    re.MULTILINE | re.DOTALL,
)
# What is another one at each run.
_VARYING = re.compile(
    r"(?P<anything>…)|(?P<seconds>\d+(?:\.\d+)?(?= (?:s|ms|µs)\b))|(?P<pid>(?<=pid[= ])\d+)"
    r"|(?P<hex>\b[0-9a-f]{32,40}\b)"
)
_PATTERNS = {"anything": ".*", "seconds": r"\d+(?:\.\d+)?", "pid": r"\d+", "hex": "[0-9a-f]+"}
_FROM_A_TASK = re.compile(r"^\([^()\n]+ pid=\d+\) .*\n", re.MULTILINE)


class Block(NamedTuple):
    """A block of Python."""

    line: int  # of its first line of code
    code: str
    output: str | None  # what it is to print, if the page says so
    why: str | None  # why it is not run


def blocks(page: Path) -> list[Block]:
    """The Python blocks of a page."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        code = textwrap.dedent(match["code"])
        output = None if match["output"] is None else textwrap.dedent(match["output"])
        found.append(Block(line, code, output, match["why"]))
    fences = len(re.findall(r"^[ ]*```python$", text, re.MULTILINE))
    assert fences == len(found), f"{page}: {fences} blocks begin, {len(found)} were understood"
    return found


def agree(expected: str, printed: str) -> bool:
    """Whether what was printed is what the page says."""
    pattern, end = "", 0
    for match in _VARYING.finditer(expected):
        pattern += re.escape(expected[end : match.start()]) + _PATTERNS[str(match.lastgroup)]
        end = match.end()
    pattern += re.escape(expected[end:])
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


class Both(io.StringIO):
    """Keeps what is printed, and prints it too."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        return super().write(text)


def main(page: Path) -> int:
    """Run a page; the exit code."""
    module = types.ModuleType("__main__")
    module.__file__ = str(page)
    sys.modules["__main__"] = module
    for block in blocks(page):
        if block.why is not None:
            continue
        # Down to its own line, so that tracebacks point into the page.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(Both()) as out:
            exec(code, vars(module))
        printed = _FROM_A_TASK.sub("", out.getvalue())
        if block.output is not None and not agree(block.output.rstrip(), printed.rstrip()):
            at = f"{page}:{block.line}"
            print(f"{at} was to print\n{block.output}\nand printed\n{printed}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    sys.argv = [str(target)]
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(target))
