"""What docstrings say of a class's fields, for ``--help`` and the documentation."""

from __future__ import annotations

import inspect
import re

#: An entry of a section, and the lines that go on with it.
_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.M)
_SECTION = re.compile(r"^Attributes:\n((?: +.*\n?|\n)+)", re.M)


def attributes(kind: type) -> dict[str, str]:
    """What is said of each field under ``Attributes:``, the bases' included, in one line each."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = _SECTION.search(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
        if section is not None:
            texts |= {name: " ".join(text.split()) for name, text in _ENTRY.findall(section[1])}
    return texts


def summary(kind: type) -> str:
    """The first line."""
    return (kind.__doc__ or "").partition("\n")[0]
