"""The judges of ``conf/judge``: set from the command line, identified by what they are."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evaluators
from evaluators.base import JudgeConfig
from evaluators.geneval.config import DETECTOR, GenEvalConfig
from evaluators.ocr.evaluator import OcrConfig
from evaluators.preference.aesthetic import AestheticConfig
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.weights import sha256_of
from soarbench.common.errors import ConfigError
from soarbench.config.compose import run_settings
from soarbench.config.folders import options
from soarbench.config.registries import every_judge, judges_of
from tests.rewards import Dullness, DullnessConfig

JUDGES = every_judge()
#: Texts that a field takes; any other text may be anything.
TEXTS = {
    "dtype": "float16",
    "engine": "paddle",
    "transform": "published",
    "base_url": "https://example.org/v1",
    "server": "https://example.org/v1",
    "question": "Is this {prompt}?",
}
#: What loads a model, and imports what it needs to.
HEAVY = {
    "evaluators.clip.encoders",
    "evaluators.clip.open_clip_models",
    "evaluators.diversity.measures",
    "evaluators.geneval.colors",
    "evaluators.geneval.mask2former",
    "evaluators.geneval.mmdetection",
    "evaluators.preference.imagereward_model",
    "evaluators.preference.rating_head",
    "evaluators.vlm.hpsv3_model",
    "evaluators.vlm.local",
}


def test_every_yaml_is_a_judge_and_states_its_facts() -> None:
    assert set(JUDGES) == set(options("judge")) >= {"geneval", "ocr", "clipscore", "lab_geneval"}
    for name, judge in JUDGES.items():
        assert isinstance(judge, JudgeConfig), name
        assert judge.title, name
        assert judge.summary, name
        assert all(importlib.util.find_spec(module) for module in judge.code), name
        low, high = judge.value_range
        assert low < high, name
    assert len({judge.kind for judge in JUDGES.values()}) == len(JUDGES)


def other_value(field: dataclasses.Field[object], value: object) -> object:
    """A value that the field takes and does not have."""
    if isinstance(value, str):
        return TEXTS.get(field.name, "elsewhere")
    if isinstance(value, int | float):
        return value / 2 if isinstance(value, float) else value + 1
    return "elsewhere" if "str" in str(field.type) else 3


@pytest.mark.parametrize("name", JUDGES)
def test_every_field_is_set_from_the_command_line(name: str) -> None:
    fields = dataclasses.fields(JUDGES[name])
    values = {field.name: other_value(field, getattr(JUDGES[name], field.name)) for field in fields}
    words = [f"judge.{name}.{key}={value}" for key, value in values.items()]
    judge = run_settings(["model=sd35_medium", "data=lab_general", *words]).judge[name]
    assert dataclasses.asdict(judge) == values
    assert judges_of("sd35_medium", words)[name] == judge


@pytest.mark.parametrize("name", JUDGES)
def test_an_identity_is_json_without_speed_and_without_where_its_class_lies(name: str) -> None:
    judge = JUDGES[name]
    identity = judge.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert identity["kind"] == judge.kind
    moved = type("Renamed", (type(judge),), {"__module__": "another.module"})
    assert moved(**vars(judge)).identity() == identity
    speed = ("batch_size", "crop_batch_size", "device", "num_threads", "concurrency", "base_url")
    fields = {field.name: field for field in dataclasses.fields(judge)}
    changes = {key: other_value(fields[key], getattr(judge, key)) for key in speed if key in fields}
    assert dataclasses.replace(judge, **changes).identity() == identity


def test_what_changes_a_number_changes_the_identity() -> None:
    changed = {
        "geneval": {"dtype": "bfloat16"},
        "clipscore": {"transform": "published"},
        "aesthetic": {"head": "other/head"},
        "hpsv21": {"architecture": "ViT-L-14"},
        "ocr": {"min_confidence": 0.0},
        "unifiedreward": {"model": "other"},
    }
    for name, values in changed.items():
        assert dataclasses.replace(JUDGES[name], **values).identity() != JUDGES[name].identity()


def test_a_later_setting_is_no_part_of_an_identity_until_it_is_set() -> None:
    assert "transform" not in ClipScoreConfig().settings()
    assert ClipScoreConfig(transform="published").settings()["transform"] == "published"


def test_weights_are_identified_by_content_wherever_they_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "model.safetensors").write_bytes(b"weights")
    (first / "config.json").write_text("{}")
    shutil.copytree(first, second)
    (second / "README.md").write_text("no part of the model")
    one, other = (ClipScoreConfig(weights=str(folder)).identity() for folder in (first, second))
    assert one == other
    assert str(tmp_path) not in json.dumps(one)
    (second / "model.safetensors").write_bytes(b"trained")
    assert ClipScoreConfig(weights=str(second)).identity() != one
    head = tmp_path / "head.pth"
    head.write_bytes(b"head")
    alone = AestheticConfig(head=str(head)).identity()
    assert alone == AestheticConfig(head=str(tmp_path), head_file="head.pth").identity()
    assert OcrConfig().identity() != OcrConfig(detection_dir=str(tmp_path)).identity()


def test_a_pinned_file_of_the_hub_is_identified_by_its_content() -> None:
    digests = AestheticConfig().identity()["weights"]
    assert isinstance(digests, dict)
    ((_, sha256),) = AestheticConfig.published[1].sha256
    assert digests == {"weights": ClipScoreConfig().weights, "head": sha256}


def test_a_copy_of_the_published_detector_has_the_address_of_its_name(tmp_path: Path) -> None:
    published = GenEvalConfig().identity()
    copy = tmp_path / "copy.pth"
    copy.write_bytes(b"checkpoint")
    assert GenEvalConfig(detector=str(copy)).identity() != published
    file = dataclasses.replace(DETECTOR, sha256=sha256_of(copy)[:8])
    kind = type("Copied", (GenEvalConfig,), {"published": (file,)})
    assert kind(detector=str(copy)).identity() == published


def test_facts_survive_json_and_say_which_way_is_up() -> None:
    facts = json.loads(json.dumps(DullnessConfig().facts()))
    assert facts == DullnessConfig().facts()
    assert facts["higher_is_better"] is False
    assert facts["is_oracle"] is False
    evaluator = DullnessConfig().build()
    assert isinstance(evaluator, Dullness)
    assert evaluator.name == "dullness"
    evaluator.check_canaries()
    assert JUDGES["oracle_aesthetic"].facts()["is_oracle"] is True
    assert JUDGES["geneval"].facts()["is_macro_mean"] is True


def test_a_key_that_a_judge_lacks_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"'judge\.geneval\.detectr' here; did you mean 'judge\.genev"
    ):
        judges_of("sd35_medium", ["judge.geneval.detectr=x"])
    with pytest.raises(
        ConfigError, match=r"no key 'judge\.genevl\.dtype' here; did you mean 'judge\.gene"
    ):
        judges_of("sd35_medium", ["judge.genevl.dtype=x"])


def test_judges_and_their_configurations_import_no_framework() -> None:
    modules = {module.name for module in pkgutil.walk_packages(evaluators.__path__, "evaluators.")}
    assert modules > HEAVY
    code = (
        "import importlib, sys\n"
        "frameworks = ('torch', 'torchvision', 'transformers', 'open_clip', 'paddleocr', 'scipy')\n"
        "sys.modules.update(dict.fromkeys(frameworks))\n"
        f"for name in {sorted(modules - HEAVY)!r}: importlib.import_module(name)\n"
        "from soarbench.config.registries import every_judge, suite_named\n"
        "for judge in every_judge().values(): judge.identity(), judge.facts()\n"
        "suite_named('lab_geneval').items(), suite_named('geneval').items()\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
