"""Digests of the code that determines an artefact, so that a changed loss is not passed over."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

from soarbench.common.files import short_digest


def digests(modules: Iterable[str]) -> dict[str, str]:
    """Digest of each module's code, by its name; modules without a source file are left out."""
    paths = {name: _source_file(name) for name in sorted(modules)}
    return {name: _digest(path) for name, path in paths.items() if path is not None}


def _source_file(module: str) -> Path | None:
    """Where a module lies; it is not imported."""
    # A method's module would load torch, and ``report`` compares digests, too.
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


@functools.cache
def _digest(path: Path) -> str:
    """Of what the code does: comments, docstrings and layout do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        # Else a reworded docstring would make hours of training stale.
        body = getattr(node, "body", None)
        match body:
            case [ast.Expr(ast.Constant(str())), *_]:
                del body[0]
    return short_digest(ast.dump(tree).encode())


def changed(stored: Mapping[str, str]) -> list[str]:
    """Modules whose code is not what it was when an artefact was begun."""
    # A module that is gone counts as changed: nothing says that its successor does the same.
    now = digests(stored)
    return sorted(name for name, value in stored.items() if now.get(name) != value)


def code_of(*configs: object) -> tuple[str, ...]:
    """Modules that determine what configurations make, without importing one.

    Args:
        configs: Configurations, whose classes' modules and ``code`` (names of further modules)
            count; or dotted paths of functions, as rewards are named.
    """
    modules: set[str] = set()
    for config in configs:
        if isinstance(config, str):
            modules.add(config.replace(":", ".").rpartition(".")[0])
        else:
            # What only declares has no say in what comes out.
            kinds = (kind for kind in type(config).__mro__ if not inspect.isabstract(kind))
            modules |= {kind.__module__ for kind in kinds}
            modules |= set(getattr(config, "code", ()))
    return tuple(sorted(modules - {"", "abc", "builtins", "typing"}))
