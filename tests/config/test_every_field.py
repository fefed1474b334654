"""Every field of every configuration can be set from the command line."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping

import pytest

from soarbench.common.errors import ConfigError
from soarbench.config.compose import compose_pairs
from soarbench.config.composition import Composition
from soarbench.config.keys import split
from soarbench.config.overrides import parse_overrides
from soarbench.config.settings import Settings

METHODS = (
    *("sft", "soar", "flow_grpo", "diffusion_nft"),
    *("awm", "best_of_group", "online_dpo"),
)
#: Groups that some methods leave out, filled in.
NULL_GROUPS = {"lora": "{rank: 4, alpha: 8.0}", "ema": "{decay: 0.5, every: 2}"}


def composed(model: str, method: str, *words: str) -> Composition:
    overrides = parse_overrides(["grid=reward_specific", f"model={model}", *words])
    return compose_pairs([(method, "aesthetic")], overrides)[method, "aesthetic"]


def fields(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every field below a configuration, groups included, with its value."""
    if dataclasses.is_dataclass(value):
        items = [(entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value)]
    elif isinstance(value, Mapping) and any(map(dataclasses.is_dataclass, value.values())):
        items = list(value.items())
    else:
        return
    for name, item in items:
        yield f"{key}{name}", item
        yield from fields(item, f"{key}{name}.")


def written(value: object, quote: str = "") -> str:
    """A value as it is typed; text within a list or a group is quoted."""
    if isinstance(value, str):
        return f"{quote}{value}{quote}" or "''"
    if isinstance(value, (list, tuple)):
        items = [written(item, "'") for item in value]
        return f"[{','.join(items)}]"
    if isinstance(value, Mapping):
        pairs = [f"{name}:{written(item, chr(39))}" for name, item in value.items()]
        return f"{{{','.join(pairs)}}}"
    return json.dumps(value)


@pytest.mark.parametrize("model", ["lab", "sd35_medium"])
@pytest.mark.parametrize("method", METHODS)
def test_every_field_takes_its_own_value(model: str, method: str) -> None:
    filled = [f"{key}={value}" for key, value in NULL_GROUPS.items()]
    composition = composed(model, method, *filled)
    settings = composition.settings()
    keys = dict(fields(settings))
    once_unreachable = {"optim.betas", "optim.schedule", "optim.warmup_steps", "model.revision"}
    once_unreachable |= {"training.num_workers", "training.logging_steps", "lora.target_modules"}
    assert once_unreachable <= keys.keys()
    leaves = {k: v for k, v in keys.items() if not dataclasses.is_dataclass(v)}
    for key, value in leaves.items():
        if not isinstance(value, Mapping) or not any(map(dataclasses.is_dataclass, value.values())):
            assert composition.set(split(f"{key}={written(value)}")), key
    assert composition.settings() == settings


@pytest.mark.parametrize("data", ["jsonl", "datasets", "webdataset", "lab_alignment"])
def test_every_field_of_every_form_of_data_takes_its_own_value(data: str) -> None:
    composition = composed("sd35_medium", "sft", f"data={data}")
    settings = composition.settings()
    for key, value in fields(settings.data, "data."):
        assert composition.set(split(f"{key}={written(value)}")), key
    assert composition.settings() == settings


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["optim.schedule=cosine"], "optim.schedule", "cosine"),
        (["optim.betas=[0.8,0.9]"], "optim.betas", (0.8, 0.9)),
        (["optim.betas=0.8,0.9"], "optim.betas", (0.8, 0.9)),
        (["optim.warmup_steps=7"], "optim.warmup_steps", 7),
        (["training.num_workers=2"], "training.num_workers", 2),
        (["training.logging_steps=5"], "training.logging_steps", 5),
        (
            ["lora={rank:4,alpha:8}", "lora.target_modules=a.b,c"],
            "lora.target_modules",
            ("a.b", "c"),
        ),
        (["model.revision=v2"], "model.revision", "v2"),
        (["model.path=~/a b, c=d/é"], "model.path", "~/a b, c=d/é"),
        (["model.path=C:\\models\\\\x,1"], "model.path", "C:\\models\\\\x,1"),
        (["model.path='null'"], "model.path", "null"),
        (["model.name=2024"], "model.name", "2024"),
        (["task.curation.keep_fraction=1"], "task.curation.keep_fraction", 1.0),
        (["task.curation.thresholds.beauty=3"], "task.curation.thresholds", {"beauty": 3.0}),
        (["reward={ocr:0.5,my.fn:0.5}"], "reward", {"ocr": 0.5, "my.fn": 0.5}),
        (["reward=my_package.Reward"], "reward", "my_package.Reward"),
        (["seeds=3"], "seeds", (3,)),
    ],
)
def test_fields_that_yaml_leaves_out_are_set(words: list[str], key: str, value: object) -> None:
    settings: object = composed("lab", "sft", *words).settings()
    for part in key.split("."):
        settings = getattr(settings, part)
    assert settings == value


def test_a_group_that_refers_to_another_becomes_its_own() -> None:
    words = ["data=jsonl", "data.path=/x", "data.thresholds.beauty=4"]
    settings = composed("sd35_medium", "sft", *words).settings()
    assert settings.data.thresholds == {"aesthetic": 6.8, "beauty": 4.0}  # type: ignore[union-attr]
    assert settings.task.curation.thresholds == {"aesthetic": 6.8}


def test_a_value_goes_to_the_compositions_that_have_its_key() -> None:
    overrides = parse_overrides(["grid=reward_specific", "lora.rank=4", "method.aux_weight=0.5"])
    pairs = [(method, "aesthetic") for method in ("base", *METHODS)]
    found = {m: c.settings() for (m, _), c in compose_pairs(pairs, overrides).items()}
    assert found["sft"].lora is None
    assert found["flow_grpo"].lora is not None
    assert found["flow_grpo"].lora.rank == 4
    assert found["soar"].method.aux_weight == 0.5  # type: ignore[union-attr]


def test_every_hint_of_settings_can_be_read() -> None:
    for model in ("lab", "sd35_medium"):
        for method in METHODS:
            composition = composed(model, method)
            for key in composition.known():
                # A new group of a name of one's own is given whole.
                assert composition.hint(key) is not None or ".NAME." in key, key
    assert set(typing.get_type_hints(Settings)) <= set(composed("lab", "sft").known())


def test_a_null_group_says_how_to_fill_it() -> None:
    with pytest.raises(ConfigError, match=r"lora is null, give the group: lora=\{\.\.\.\}"):
        composed("lab", "sft", "lora.rank=4")
