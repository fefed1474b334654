"""What a class that configurations name has to say of itself."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import pytest

from soarbench.common.declared import check_declared
from soarbench.common.errors import ConfigError
from soarbench.common.strict import build, component_class

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Part(abc.ABC):
    kind: ClassVar[str]
    title: ClassVar[str]
    code: ClassVar[tuple[str, ...]] = ()
    ends: ClassVar[tuple[float, float]] = (0.0, 1.0)
    trains_on: ClassVar[Literal["images", "prompts"]] = "images"
    decimals: ClassVar[int] = 3

    @abc.abstractmethod
    def cost(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Good(Part):
    kind = "good"
    title = "Good"
    layers: list[int] = field(default_factory=list)

    def cost(self) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Heir(Good):
    pass


class Misspelt(Part):
    kind = "misspelt"
    title = "Misspelt"

    def csot(self) -> float:
        return 1.0


class Unread(Good):
    kind = "unread"
    share: Fraction


@dataclass(frozen=True, kw_only=True)
class Holder:
    part: Part


HERE = __name__


def made(**facts: object) -> type:
    return type("Made", (Good,), {"kind": "made", "__module__": "other_package.parts", **facts})


def test_a_class_with_all_its_facts_is_taken() -> None:
    check_declared(Good)
    check_declared(made(code=["a", "b"], ends=(0, 255), trains_on="prompts"))
    # What a property says, nobody knows without its settings.
    check_declared(made(title=property(str), code=property(len)))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"code": "a.b"}, r"Made\.code='a\.b' must be of .*\('a\.b',\) with its comma$"),
        ({"code": ("a", 3)}, r"Made\.code=\('a', 3\) must be of type tuple\[str, \.\.\.\]"),
        ({"title": None}, "Made.title=None must be of type str"),
        ({"ends": (0.0,)}, r"Made\.ends=\(0\.0,\) must be of type tuple\[float, float\]"),
        ({"ends": ("0", "1")}, "Made.ends=.* must be of type"),
        ({"decimals": True}, "Made.decimals=True must be of type int"),
        ({"trains_on": "image"}, "Made.trains_on='image' must be of type .*'prompts'"),
    ],
)
def test_a_fact_of_a_wrong_type_is_named(facts: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^other_package\.parts\.{message}"):
        check_declared(made(**facts))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Heir", r"Heir has the kind 'good' of Good, whose .*; give it `kind = \.\.\.` of its own"),
        ("Misspelt", r"part\._target_='.*Misspelt' lacks cost: write what is missing"),
        ("Unread", "Unread: an annotation .*'Fraction' is not defined.*TYPE_CHECKING"),
    ],
)
def test_a_class_that_cannot_be_told_from_another_or_is_not_whole_is_refused(
    kind: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        component_class(Part, f"{HERE}.{kind}", "part")
    assert "\n" not in str(caught.value)


def test_all_facts_that_are_missing_are_named() -> None:
    bare = type("Bare", (Part,), {"cost": Good.cost, "__module__": "other_package.parts"})
    with pytest.raises(ConfigError, match=r"Bare lacks kind, title: add `kind = .*` to the class"):
        check_declared(bare)


def test_a_field_of_a_type_that_no_yaml_holds_is_named() -> None:
    values = {"_target_": f"{HERE}.Good", "layers": [1, 2]}
    with pytest.raises(ConfigError, match=r"part\.layers: a field of type list\[int\] cannot"):
        build(Holder, {"part": values}, "")
