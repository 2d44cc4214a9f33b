"""Build docs/api.md, the reference, from the docstrings: ``python docs/build_api.py``.

``--check`` writes nothing and exits with 1 if the page is out of date. Needs nothing but pyray.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "api.md"

# In this order; the modules of pyray.util are found.
FIRST = (
    "pyray",
    "pyray.actor",
    "pyray.exceptions",
    "pyray.runtime_env",
    "pyray.serialization",
    "pyray.shared",
)
# Of pyray.util: what others there are made of.
INTERNAL = {
    "pyray.util.iter_shards",
    "pyray.util.iter_steps",
    "pyray.util.multiprocessing.engine",
    "pyray.util.pool_worker",
    "pyray.util.state.tell",
    "pyray.util.multiprocessing.threads",
    "pyray.util.multiprocessing.worker",
}
# Made by other means than by calling the class.
MADE = {
    "ActorClass",
    "ActorHandle",
    "ActorMethod",
    "AsyncResult",
    "IMapIterator",
    "LocalIterator",
    "ObjectID",
    "ParallelIterator",
    "RemoteFunction",
    "SharedArray",
}

HEAD = """# API reference

Built from the docstrings by `docs/build_api.py`; `make docs` builds it anew. `import pyray as ray`.
"""

_UNDERLINED = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|exc):`~?([^`]+)`")


def modules() -> list[str]:
    """Names of the modules whose public names are documented."""
    import pyray.util

    found = [m.name for m in pkgutil.walk_packages(pyray.util.__path__, "pyray.util.")]
    hidden = [n for n in found if any(part.startswith("_") for part in n.split("."))]
    return [*FIRST, "pyray.util", *(n for n in found if n not in INTERNAL and n not in hidden)]


def public(module: Any) -> list[str]:
    """A module's public names; what it does not name itself are its own functions and classes."""
    names = getattr(module, "__all__", None)
    if names is not None:
        return [n for n in names if not inspect.ismodule(getattr(module, n))]
    own = [
        n
        for n, thing in vars(module).items()
        if not n.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]
    return sorted(own)


def entries() -> Iterator[tuple[str, str, Any]]:
    """(module, name, thing) of everything public, each thing under the first module that has it."""
    seen: set[tuple[int, str]] = set()
    for where in modules():
        module = importlib.import_module(where)
        for name in public(module):
            thing = getattr(module, name)
            if (id(thing), name) not in seen:
                seen.add((id(thing), name))
                yield where, name, thing


# ---- one thing ---------------------------------------------------------------------------------


def docstring(thing: Any) -> str:
    """A thing's own docstring, without the signature that Cython puts first."""
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    text = inspect.cleandoc(text or "")
    first, _, rest = text.partition("\n")
    name = re.escape(getattr(thing, "__name__", "?"))
    if re.match(rf"(\w+\.)?{name}\(", first):
        text = rest.strip("\n")
    return text


def signature(thing: Any, skip_self: bool = False) -> str:
    """``(a, b=1)``: annotations are left to the text, where they can be read."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(…)"
    parameters = list(found.parameters.values())
    if skip_self and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def to_markdown(text: str) -> str:
    """A numpydoc docstring as Markdown."""
    text = _ROLE.sub(r"`\1`", text).replace("``", "`")
    parts = _UNDERLINED.split(text)
    out = [paragraphs(parts[0])]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title == "Examples":
            out.append(paragraphs(body))
        elif title in ("Notes", "See Also", "Warnings"):
            out.append(f"**{title}.** {paragraphs(body)}")
        else:
            out.append(f"**{title}**\n\n{fields(body)}")
    return "\n\n".join(part for part in out if part.strip())


def paragraphs(text: str) -> str:
    """Text, with what begins with >>> in blocks of code."""
    out = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        if part.lstrip().startswith(">>>"):
            if out and out[-1].startswith("```pycon"):
                out[-1] = out[-1].removesuffix("\n```") + f"\n\n{part}\n```"
            else:
                out.append(f"```pycon\n{textwrap.dedent(part)}\n```")
        else:
            out.append(part)
    return "\n\n".join(out)


def fields(body: str) -> str:
    """A section of names, types and descriptions as a list."""
    out: list[str] = []
    for line in body.strip("\n").splitlines():
        if not line.strip():
            continue
        if line[0] != " ":
            names, colon, kind = line.partition(" : ")
            out.append(f"- `{names}`" + (f" : {kind}" if colon else ""))
        elif line.startswith("    ") and len(out) and out[-1].startswith("- "):
            out.append("  " + line.strip())
        else:
            out.append("  " + line.strip())
    return "\n".join(out)


def summary(thing: Any) -> str:
    """The first sentence of a docstring."""
    text = _ROLE.sub(r"`\1`", docstring(thing)).replace("``", "`")
    first = re.split(r"\n\s*\n", text)[0]
    return " ".join(re.split(r"(?<=\.)\s", first.replace("\n", " "))[0].split())


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class has of its own, in the order of their text."""
    for name, thing in vars(cls).items():
        if name.startswith("_") or isinstance(thing, type):
            continue
        raw = getattr(thing, "__func__", thing)
        shown = callable(raw) or isinstance(raw, property) or inspect.isgetsetdescriptor(raw)
        if shown and inspect.getdoc(getattr(cls, name, None)):
            yield name, thing


def entry(title: str, name: str, thing: Any, named: set[str]) -> str:
    """The Markdown of one public thing; `named` are the names of all of them."""
    own = getattr(thing, "__name__", name)
    if inspect.isclass(thing) or callable(thing):
        if own != name and own in named:
            return f"### {title}\n\nAnother name of `{own}`."
        if not str(getattr(thing, "__module__", "")).startswith("pyray"):
            return f"### {title}\n\nThe standard library's `{thing.__module__}.{own}`."
    if inspect.isclass(thing):
        return class_entry(title, name, thing)
    if callable(thing):
        return f"### {title}\n\n{call_of(title, thing)}\n\n{to_markdown(docstring(thing))}"
    return f"### {title}\n\nA constant of type `{type(thing).__name__}`."


def call_of(title: str, thing: Any) -> str:
    """How it is called, in a block of code."""
    call = textwrap.fill(
        title + signature(thing), 96, subsequent_indent="    ", break_on_hyphens=False
    )
    return f"```\n{call}\n```"


def class_entry(title: str, name: str, cls: type) -> str:
    """The Markdown of a class and its methods."""
    bases = [b.__name__ for b in cls.__bases__ if b.__name__ not in ("object", "Generic")]
    inherits = f"A class; inherits from {', '.join(f'`{b}`' for b in bases)}.\n\n" if bases else ""
    out = [f"### {title}\n"]
    if not issubclass(cls, BaseException) and name not in MADE:
        out.append(f"{call_of(title, cls)}\n")
    out.append(inherits + to_markdown(docstring(cls)))
    for method, thing in methods(cls):
        raw = getattr(thing, "__func__", thing)
        if callable(raw):
            call = signature(raw, not isinstance(thing, staticmethod))
            out.append(f"\n#### `{name}.{method}{call}`\n\n{to_markdown(docstring(raw))}")
        else:
            about = to_markdown(inspect.getdoc(raw) or "")
            out.append(f"\n#### `{name}.{method}`\n\n{about}")
    return "\n".join(out)


# ---- the page ----------------------------------------------------------------------------------


def build() -> str:
    """The page."""
    found: dict[str, list[tuple[str, str, Any]]] = {}
    for where, name, thing in entries():
        title = f"{where.replace('pyray', 'ray', 1)}.{name}"
        found.setdefault(where, []).append((title, name, thing))
    named = {name for things in found.values() for _, name, _ in things}
    out = [HEAD]
    for where, things in found.items():
        out.append(f"\n**{where.replace('pyray', 'ray', 1)}**\n")
        for title, name, thing in things:
            said = summary(thing) if getattr(thing, "__name__", None) == name else ""
            out.append(f"- [`{title}`](#{anchor(title)})" + (f": {said}" if said else ""))
    for where, things in found.items():
        module = importlib.import_module(where)
        about = paragraphs(re.split(r"\n\s*\n", docstring(module))[0])
        out.append(f"\n## {where.replace('pyray', 'ray', 1)}\n\n{about}")
        out += [f"\n{entry(title, name, thing, named)}" for title, name, thing in things]
    return "\n".join(out) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it; the exit code."""
    page = build()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text() == page:
            return 0
        print(f"{PAGE} is out of date: run `make docs`, or python docs/build_api.py")
        return 1
    PAGE.write_text(page)
    print(f"{PAGE}: {len(page.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
