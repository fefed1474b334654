"""The published setups by name: SD3.5 with real judges, and the values of the two papers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import yaml

from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.soar_config import SoarConfig
from soarbench.common.errors import UserError
from soarbench.common.plugins import OWN as CONF
from soarbench.config.composition import compose_choices
from soarbench.config.registries import suite_named
from soarbench.evaluation.suites import PromptFile, load_suite, suite_size
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import expand

#: Checkpointing is published as true, for the published GPUs: neither changes what is computed.
LEFT_TO_MEMORY = ("training.gradient_checkpointing", "method.aux_chunk")
TABLE = Path(__file__).parents[2] / "results" / "reference" / "hyperparameters.csv"
REAL = ["model=sd35_medium", "data=lab_general"]


def cells_of(*arguments: str) -> dict[str, CellConfig]:
    return {cell.method_name: cell for cell in expand([*arguments]).cells}


def test_sd35_medium_is_the_published_model_and_evaluation() -> None:
    base = cells_of("grid=reward_specific", *REAL)["base"]
    assert base.model.path == "stabilityai/stable-diffusion-3.5-medium"
    assert base.model.revision is not None
    assert len(base.model.revision) == 40
    assert (base.model.resolution, base.model.dtype) == (512, "bfloat16")
    assert base.model.load_text_encoder_3
    assert base.model.max_sequence_length == 256
    assert (base.sampling.num_inference_steps, base.sampling.guidance_scale) == (40, 4.5)
    assert base.weights_digest == f"{base.model.path}@{base.model.revision}"


def test_sft_and_soar_are_trained_as_published() -> None:
    found = cells_of("grid=reward_specific", *REAL, "task=aesthetic")
    for name in ("sft", "soar"):
        cell = found[name]
        assert cell.training is not None
        assert cell.optim is not None
        assert cell.lora is cell.ema is None
        assert cell.training.steps == 5000
        assert (cell.training.batch_size, cell.training.micro_batch_size) == (8 * 4, 4)
        assert cell.training.mixed_precision == "bf16"
        assert cell.trained_model.max_sequence_length == 77
        assert cell.model.max_sequence_length == found["base"].model.max_sequence_length == 256
        assert (cell.optim.learning_rate, cell.optim.weight_decay) == (2e-5, 1e-2)
        assert cell.seed == 42
    soar = found["soar"].method
    assert isinstance(soar, SoarConfig)
    assert (soar.guidance_scale, soar.num_inference_steps, soar.num_aux_points) == (4.5, 40, 6)
    assert (soar.num_rollout_paths, soar.aux_weight) == (1, 1.0)


def test_the_main_table_takes_twice_the_steps_and_every_judge() -> None:
    found = cells_of("grid=main_table", *REAL)
    for name in ("sft", "soar"):
        training = found[name].training
        assert training is not None
        assert training.steps == 10000
    judges = {name for suite in found["base"].suites.values() for name in suite.judges}
    assert judges == {
        *("geneval", "ocr", "pickscore", "clipscore", "hpsv21", "aesthetic", "imagereward")
    }


def test_flow_grpo_is_trained_as_published() -> None:
    cell = cells_of("grid=reward_specific", *REAL, "task=aesthetic")["flow_grpo"]
    method = cell.method
    assert isinstance(method, FlowGrpoConfig)
    assert (method.group_size, method.num_inference_steps, method.noise_level) == (24, 10, 0.7)
    assert (method.clip_range, method.kl_coeff, method.guidance_scale) == (1e-4, 0.01, 4.5)
    assert cell.lora is not None
    assert (cell.lora.rank, cell.lora.alpha) == (32, 64.0)
    assert cell.ema is not None
    assert (cell.ema.decay, cell.ema.every) == (0.9, 8)
    assert cell.optim is not None
    assert (cell.optim.learning_rate, cell.optim.weight_decay) == (3e-4, 1e-4)
    assert cell.training is not None
    assert cell.training.batch_size == 24 * 24
    assert cell.rewards == {"aesthetic": 1.0}


def published_values(method: str) -> dict[str, object]:
    """The table's rows of a method, read as YAML."""
    rows = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    assert (rows[["published_as", "source"]] != "").all(axis=None)
    rows = rows[rows["method"] == method]
    assert not rows["setting"].duplicated().any()
    left = rows[rows["setting"].isin(LEFT_TO_MEMORY)]
    assert left["published_as"].str.contains("ours is null").all()
    return {key: yaml.safe_load(v) for key, v in zip(rows["setting"], rows["value"], strict=True)}


def leaves(node: object, prefix: str = "") -> set[str]:
    """Dotted keys of what is no mapping."""
    if not isinstance(node, dict):
        return {prefix.removesuffix(".")}
    return {key for name, value in node.items() for key in leaves(value, f"{prefix}{name}.")}


@pytest.mark.parametrize(
    "named",
    [
        *("sft", "soar", "flow_grpo", "sft/general", "soar/general", "flow_grpo/alignment"),
        *("flow_grpo_fast", "flow_grpo_cps", "flow_grpo_nocfg"),
        *("diffusion_nft", "awm", "best_of_group", "online_dpo"),
        *("base/general", "base/aesthetic", "base/alignment"),
    ],
)
def test_the_table_beside_the_sources_is_what_the_recipes_say(named: str) -> None:
    method, _, task = named.partition("/")
    choices = ["grid=reward_specific", "model=sd35_medium", f"task={task or 'aesthetic'}"]
    config = compose_choices([*choices, f"method={method}"])
    table = published_values(named)
    assert table
    for key, value in table.items():
        found = config.plain(key)
        if key in LEFT_TO_MEMORY:
            assert found is None, key
            continue
        assert found == (float(value) if isinstance(found, float) else value), key
    if method == "base":
        return
    recipe = yaml.safe_load((CONF / f"recipe/sd35_medium/{named}.yaml").read_text())
    known = table.keys() | set(LEFT_TO_MEMORY)
    assert leaves({k: v for k, v in recipe.items() if k != "defaults"}) <= known


def test_one_word_makes_it_small_or_large() -> None:
    small = cells_of("grid=reward_specific", *REAL, "budget=quick")["sft"].training
    assert small is not None
    assert small.steps == 40
    large = cells_of("grid=reward_specific", "model=sd35_large", "data=lab_general")["base"]
    assert large.model.path == "stabilityai/stable-diffusion-3.5-large"
    assert large.sampling.num_inference_steps == 40


@pytest.mark.parametrize(
    ("grid", "task"),
    [("rivals", "aesthetic"), ("rivals", "alignment"), ("main_table", "general")],
)
def test_the_large_model_is_trained_as_the_medium_one(grid: str, task: str) -> None:
    words = [f"grid={grid}", f"task={task}", "data=lab_general"]
    medium, large = (cells_of(*words, f"model=sd35_{size}") for size in ("medium", "large"))
    assert medium.keys() == large.keys()
    for name in medium.keys() - {"base"}:
        for part in ("method", "training", "optim", "lora", "ema"):
            assert getattr(large[name], part) == getattr(medium[name], part), (name, part)


def test_geneval_has_the_official_prompts_without_a_file() -> None:
    suite = suite_named("geneval")
    items = suite.items()
    assert len(items) == len(load_suite(suite).items) == 553
    assert items[0].prompt_id == "geneval/00000"
    assert items[0].metadata["tag"] == "single_object"


def test_a_suite_of_a_file_counts_a_repeated_prompt_once(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\na cat\n")
    suite = suite_named("drawbench")
    assert isinstance(suite, PromptFile)
    assert len(load_suite(suite).items) == 200
    with pytest.raises(UserError, match=r"give suites\.drawbench\.prompts=FILE"):
        suite.items()
    suite = dataclasses.replace(suite, prompts=str(path))
    assert [item.prompt for item in suite.items()] == ["a cat", "a dog"]
    assert [item.prompt_id for item in suite.items()] == ["drawbench/00000", "drawbench/00001"]
    assert suite_size(suite) == (load_suite(suite).sha256, 2)
    # It is read once, and again when it is another.
    path.write_text("a bird\n")
    assert suite_size(suite) == (load_suite(suite).sha256, 1)


def drawn(arguments: list[str]) -> set[str]:
    """Addresses of the images of the suite that takes a file."""
    cells = expand(arguments).cells
    return {addresses.images(cell, 0, cell.suites["drawbench"]).address for cell in cells}


def test_the_prompts_of_a_file_are_part_of_the_address(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    arguments = ["grid=reward_specific", *REAL, f"suites.drawbench.prompts={path}"]
    with pytest.raises(UserError, match=r"suites\.drawbench\.prompts=.*: no such file"):
        expand(arguments)
    path.write_text("a cat\n")
    before = drawn(arguments)
    assert expand(arguments).without_prompts == ()
    path.write_text("a dog\n")
    assert not before & drawn(arguments)
    assert [s.name for s in expand(arguments[:-1]).without_prompts] == ["drawbench"]
