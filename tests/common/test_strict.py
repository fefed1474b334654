"""Strict conversion of mappings into dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from soarbench.common.errors import ConfigError
from soarbench.common.strict import Component, build, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Other:
    rate: float


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    share: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    either: Inner | Other | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ()
    weights: dict[str, float] | str | None = None
    judge: Component | None = None


HERE = __name__


def test_builds_nested_values_and_turns_integers_into_floats() -> None:
    made = build(
        Outer,
        {
            "name": "x",
            "share": 1,
            "inner": {"size": 3},
            "either": {"_target_": f"{HERE}.Other", "rate": 2},
            "pair": [1, 2],
            "words": ["a"],
            "weights": {"a": 1},
            "judge": {"_target_": "math.sqrt", "x": 4},
        },
        "",
    )
    assert made == Outer(
        name="x",
        share=1.0,
        inner=Inner(size=3),
        either=Other(rate=2.0),
        pair=(1.0, 2.0),
        words=("a",),
        weights={"a": 1.0},
        judge=Component("math.sqrt", {"x": 4}),
    )
    assert isinstance(made.share, float)
    assert build(Outer, {"name": "x", "weights": "a"}, "").weights == "a"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "top.name is missing"),
        ({"name": "x", "shar": 1}, "unknown key 'top.shar': did you mean 'share'"),
        ({"name": 3}, "top.name=3 must be text"),
        ({"name": "x", "share": "1"}, "top.share='1' must be a number"),
        ({"name": "x", "share": True}, "top.share=True must be a number"),
        ({"name": "x", "flag": 1}, "top.flag=1 must be true or false"),
        ({"name": "x", "kind": "c"}, "top.kind='c' must be one of a, b"),
        ({"name": "x", "inner": 3}, "top.inner=3 must be a group of keys"),
        ({"name": "x", "inner": {"size": 0}}, "top.inner: size=0: must be at least 1"),
        ({"name": "x", "either": {"rate": 1.0}}, "top.either._target_ is missing"),
        ({"name": "x", "either": {"_target_": f"{HERE}.Othr"}}, "did you mean"),
        ({"name": "x", "pair": [1]}, "top.pair=[1] must have 2 entries"),
        ({"name": "x", "words": "a"}, "top.words='a' must be a list"),
        ({"name": "x", "words": [1]}, "top.words[0]=1 must be text"),
        ({"name": "x", "weights": 3}, "top.weights=3 is of the wrong type"),
        ({"name": "x", "weights": {"a": "b"}}, "top.weights.a='b' must be a number"),
        ({"name": "x", "judge": "math.sqrt"}, "must be a group of keys with a dotted path"),
    ],
)
def test_errors_name_key_value_and_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values, "top")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_component_is_imported_when_created() -> None:
    assert Component("fractions.Fraction", {"numerator": 1, "denominator": 2}).create("k") == 0.5
    with pytest.raises(ConfigError, match="cannot be imported"):
        Component("fractions.Nothing").create("k")
    with pytest.raises(ConfigError, match="cannot be called"):
        Component("math.pi").create("k")


def test_did_you_mean_falls_back_to_all_choices() -> None:
    assert did_you_mean("aesthetc", ["aesthetic", "ocr"]) == "did you mean 'aesthetic'?"
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of a, b"
