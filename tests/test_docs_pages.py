"""Every block of Python in the README and in docs/ runs, and prints what the page says.

A page is a script: its blocks run in order, in a process of its own. See run_page.py for how a page
says what is printed, and that a block is not to be run. The reference is made from the docstrings,
whose examples are run elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

import helpers
import pytest
import run_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {page: run_page.blocks(page) for page in PAGES}

# Blocks that are not run, by page: each needs a reason that is as good as these.
NOT_RUN = {"cython.md": 1}
RUNNING = [
    pytest.param(page, marks=pytest.mark.no_asan("takes memory, which it speaks of"))
    if page.name == "faults.md"
    else page
    for page in PAGES
    if any(block.why is None for block in RUN[page])
]


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    env = helpers.environment(TMPDIR=str(tmp_path))
    done = helpers.run_python(
        str(Path(run_page.__file__)), str(page), cwd=tmp_path, timeout=35, env=env
    )
    assert "Traceback" not in done.stderr, done.stderr


def test_the_reference_is_up_to_date() -> None:
    helpers.run_python(str(ROOT / "docs" / "build_api.py"), "--check")  # says what to run


def test_blocks_that_are_not_run_are_few() -> None:
    marked = {
        page.name: sum(block.why is not None for block in found) for page, found in RUN.items()
    }
    assert {name: n for name, n in marked.items() if n} == NOT_RUN


def test_links_between_pages_lead_somewhere() -> None:
    missing = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                missing.append(f"{page.name}: {link}")
    assert not missing


def test_what_a_page_prints_is_compared() -> None:
    text = "got [1, 2] in 1.25 s, pid=123, id 0123456789abcdef0123456789abcdef\n… end"
    assert run_page.agree(
        text, "got [1, 2] in 3 s, pid=4, id aaaaaaaabbbbbbbbccccccccdddddddd\nx\ny end"
    )
    assert not run_page.agree(text, text.replace("[1, 2]", "[1, 3]"))
    assert not run_page.agree("1 2", "1 3")
