"""What judges refuse, said with their names: their package knows none."""

from __future__ import annotations

from collections.abc import Mapping

from evaluators.base import JudgeConfig


def of_judge(error: Exception, judges: Mapping[str, JudgeConfig]) -> str:
    """A judge's error in one line; of a setting that names weights with its whole key.

    ``weights=PATH: no such path`` becomes ``judge.NAME.weights=PATH: no such path``, with the
    command that fetches them where they are the published ones.

    Args:
        error: Of one of the judges.
        judges: Of which one refused, by name.
    """
    line = " ".join(str(error).split())
    for name, judge in judges.items():
        for key in judge.weight_files():
            value = str(getattr(judge, key))
            if line.startswith((f"{key}={value}:", f"{key}: ")):
                return f"judge.{name}.{line}{_fetch(name, judge, value)}"
    return line


def _fetch(name: str, judge: JudgeConfig, value: str) -> str:
    """The command that gets weights, where somebody published them under this value."""
    known = {getattr(one, "repo", one.title) for one in (*judge.published, *judge.optional)}
    is_known = value.partition("@")[0] in known
    return f"; 'python -m soarbench fetch {name}' gets it with a network" if is_known else ""
