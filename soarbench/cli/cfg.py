"""``--cfg``: the configuration that a command line composes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

import yaml

from soarbench.cli.help import root_values, takes
from soarbench.cli.words import read
from soarbench.common.errors import without_passwords
from soarbench.common.strict import plain, typed_fields
from soarbench.config.compose import compose_pairs
from soarbench.config.composition import Composition
from soarbench.config.keys import Options
from soarbench.config.overrides import Overrides, parse_overrides
from soarbench.config.stages import stages
from soarbench.config.sweeps import swept_grid

#: Commands that choose more than their words say.
_CHOOSERS = {
    "evaluate": "soarbench.cli.evaluate:run_words",
    "score": "soarbench.cli.score:run_words",
    "bench full_size": "soarbench.cli.bench:run_words",
    "data score": "soarbench.cli.data:run_words",
    "data check": "soarbench.cli.data:run_words",
}


class _Dumper(yaml.SafeDumper):
    """Of configurations, which hold paths."""


_Dumper.add_multi_representer(Path, lambda dumper, path: dumper.represent_str(str(path)))


def configuration(name: str, kind: type[Options] | None, words: Sequence[str]) -> str:
    """What a command is called with, as YAML: its own options, and the settings of a run.

    Args:
        name: Of the command.
        kind: Its own options.
        words: ``key=value``.

    Raises:
        ConfigError: A word cannot work.
    """
    options, settings = read(kind, words) if kind else (None, list(words))
    documents = []
    if kind is not None and typed_fields(cast(type, kind)):
        documents.append(_document(f"{name}'s own", plain(options)))
    shown = takes(kind)
    if shown:
        if name in _CHOOSERS:
            choose: Callable[[object, Sequence[str]], list[str]] = resolve_name(_CHOOSERS[name])
            settings = choose(options, settings)
        documents.append(_of_run(settings, shown))
    return without_passwords("---\n".join(documents or ["# this command takes nothing\n"]))


def _document(comment: str, values: object) -> str:
    text = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None,
        width=100,
    )  # fmt: skip
    return f"# {comment}\n{text}"


def _of_run(words: Sequence[str], shown: Sequence[str]) -> str:
    """The settings of one method in one task; a comment names the others."""
    overrides = parse_overrides(words)
    overrides = replace(overrides, grid=overrides.grid or str(root_values()["grid"]))
    composed = _compositions(overrides)
    # The first that has every key that is given: method.aux_weight= is of SOAR alone.
    keys = [word.key for word in overrides.values]
    whole = [p for p, one in composed.items() if all(one.hint(key) is not None for key in keys)]
    method, task = (whole or list(composed))[0]
    settings = plain(composed[method, task].settings())
    assert isinstance(settings, Mapping)
    others = [f"{m}/{t}" for m, t in composed if (m, t) != (method, task)]
    also = f"; the others are {', '.join(others)}: choose by method= and task=" if others else ""
    comment = f"settings of a run, grid={overrides.grid} method={method} task={task}{also}"
    if "method" not in shown:
        comment = "settings of a run"
    return _document(comment, {name: settings[name] for name in shown})


def _compositions(overrides: Overrides) -> Mapping[tuple[str, str], Composition]:
    grid, overrides = swept_grid(overrides)
    methods = dict.fromkeys(stages(name)[-1] for name in overrides.axes.get("method", grid.methods))
    pairs = [(m, task) for task in overrides.axes.get("task", grid.tasks) for m in methods]
    composed = compose_pairs(pairs, overrides, grid.variants)
    return {pair: composed[pair] for pair in pairs}
