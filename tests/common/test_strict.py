"""Strict conversion of mappings into dataclasses."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from soarbench.common.errors import ConfigError
from soarbench.common.strict import (
    ADDRESS,
    address_content,
    build,
    convert,
    did_you_mean,
    plain,
)


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
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ()
    weights: dict[str, float] | str | None = None
    folder: Path | None = None


HERE = __name__


def test_builds_nested_values_and_turns_integers_into_floats() -> None:
    made = build(
        Outer,
        {
            "name": "x",
            "share": 1,
            "inner": {"size": 3},
            "pair": [1, 2],
            "words": ["a"],
            "weights": {"a": 1},
            "folder": "~/x",
        },
        "",
    )
    assert made == Outer(
        name="x",
        share=1.0,
        inner=Inner(size=3),
        pair=(1.0, 2.0),
        words=("a",),
        weights={"a": 1.0},
        folder=Path.home() / "x",
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
        ({"name": "x", "pair": [1]}, "top.pair=[1] must have 2 entries"),
        ({"name": "x", "words": "a"}, "top.words='a' must be a list"),
        ({"name": "x", "words": [1]}, "top.words[0]=1 must be text"),
        ({"name": "x", "weights": 3}, "top.weights=3 is of the wrong type"),
        ({"name": "x", "weights": {"a": "b"}}, "top.weights.a='b' must be a number"),
        ({"name": "x", "folder": 3}, "top.folder=3 must be a path"),
    ],
)
def test_errors_name_key_value_and_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values, "top")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_did_you_mean_falls_back_to_all_choices() -> None:
    assert did_you_mean("aesthetc", ["aesthetic", "ocr"]) == "did you mean 'aesthetic'?"
    assert did_you_mean("zzz", ["b", "a"]) == "choose one of a, b"
    assert did_you_mean("zzz", [f"key{n}" for n in range(150)]).count("'") == 2 * 3


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Base(Shape):
    name: str = "shape"


@dataclass(frozen=True, kw_only=True)
class Square(Base):
    kind: ClassVar[str] = "square"
    side: float = 1.0
    colour: str = field(default="red", metadata=ADDRESS)

    def area(self) -> float:
        return self.side**2


@dataclass(frozen=True, kw_only=True)
class Holder:
    shape: Base | None = None
    several: dict[str, Base] = field(default_factory=dict)
    sizes: tuple[float, float] = (0.0, 1.0)


def test_an_abstract_field_takes_any_subclass_that_the_target_names() -> None:
    square = {"_target_": f"{HERE}.Square", "side": 2}
    holder = build(Holder, {"shape": square, "several": {"a": square}}, "")
    assert holder == Holder(shape=Square(side=2.0), several={"a": Square(side=2.0)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({}, "shape._target_ is missing"),
        ({"_target_": 3}, "shape._target_=3"),
        ({"_target_": f"{HERE}.Base"}, "is no Base that can be made"),
        ({"_target_": f"{HERE}.Other"}, "is no Base that can be made"),
        ({"_target_": "math.sqrt"}, "is no Base that can be made"),
        ({"_target_": f"{HERE}.Sqare"}, f"did you mean '{HERE}.Square'?"),
        ({"_target_": "no.such.Thing"}, "shape._target_='no.such.Thing' cannot be imported"),
        ({"_target_": f"{HERE}.Square", "sid": 1}, "unknown key 'shape.sid': did you mean 'side'"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_one_line(
    shape: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Holder, {"shape": shape}, "")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_an_abstract_field_takes_subclasses() -> None:
    with pytest.raises(ConfigError, match=r"inner\._target_='x\.Y': choose one of .*\.Inner"):
        convert(Inner, {"_target_": "x.Y"}, "inner")
    assert convert(Inner, {"_target_": f"{HERE}.Inner", "size": 2}, "inner") == Inner(size=2)


def test_an_address_holds_the_kind_and_no_class_and_nothing_that_only_costs() -> None:
    holder = Holder(shape=Square(side=2.0, colour="blue"))
    assert address_content(holder) == {
        "shape": {"kind": "square", "name": "shape", "side": 2.0},
        "several": {},
        "sizes": [0.0, 1.0],
    }
    assert plain(holder.shape) == {"name": "shape", "side": 2.0, "colour": "blue"}


def test_moving_a_class_changes_no_address() -> None:
    before = address_content(Square())
    elsewhere = type("Renamed", (Square,), {"__module__": "another.place"})
    assert address_content(elsewhere()) == before
