"""Names of methods that train in stages: ``soar_then_flow_grpo`` has two."""

from __future__ import annotations

#: The untouched model, which every grid evaluates beside its methods.
BASE = "base"
#: Between the stages in the name of a method that starts from another's weights.
THEN = "_then_"


def stages(method_name: str) -> tuple[str, ...]:
    """The methods that train one after the other."""
    return tuple(method_name.split(THEN))


def first_stage(method_name: str) -> str:
    """The method whose weights this one starts from; empty for one that starts from the base."""
    return THEN.join(stages(method_name)[:-1])
