"""The real workbench on a tiny pipeline: every method, resumed and refused."""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import SD3Transformer2DModel
from rich.console import Console
from safetensors.torch import load_file
from typing_extensions import override

from baselines.flow_grpo import FlowGrpo
from baselines.loop.checkpoints import last_complete_checkpoint
from baselines.loop.post_train import post_train
from baselines.loop.weights import load_transformer, prepare_transformer
from soarbench.cli.disk import disk_need
from soarbench.cli.run import run_whole
from soarbench.common.errors import UserError
from soarbench.config.registries import suite_named
from soarbench.data.encoded_rows import EncodedRows
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import OnStep
from soarbench.jobs.graph import all_jobs, grid_jobs
from soarbench.jobs.loaded import LoadedModel
from soarbench.jobs.train import trained_folder
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.models.base import ImageModel, PromptEncoder
from soarbench.models.sd3.config import Sd3Config
from soarbench.planning.disk import weight_bytes
from soarbench.store.artefact import Store
from soarbench.store.cells import Cell, stored_cell
from tests.fakes import SMALL, numbers
from tests.rewards import brightness
from tests.tiny import build_tiny_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def arguments(pipeline: Path, tmp_path: Path) -> list[str]:
    return [
        "grid=reward_specific",
        "grid.tasks=[aesthetic]",
        f"model.path={pipeline}",
        f"output_dir={tmp_path / 'runs'}",
        f"results_dir={tmp_path / 'results'}",
        "tracking=none",
        "device=cpu",
        *SMALL,
        "sampling.num_inference_steps=4",
        "method.num_inference_steps=4",
        "method.group_size=2",
        "training.batch_size=4",
        "lora.rank=2",
        "data.num_candidates=12",
        "data.select_by=[oracle_aesthetic]",
        "suites.drawbench.judges=[oracle_aesthetic]",
        "task.final_metric=oracle_aesthetic",
        "reward=tests.rewards.brightness",
    ]


class Interrupted(ModelWorkbench):
    """Stops like Ctrl-C in the middle of one cell's training."""

    def train(self, cell: CellConfig, on_step: OnStep) -> dict[str, float]:
        def stopping(step: int, note: str) -> None:
            on_step(step, note)
            if cell.method_name == "soar" and step == 5:
                raise KeyboardInterrupt

        return super().train(cell, stopping)


def go(arguments: list[str], kind: type[ModelWorkbench] = ModelWorkbench) -> int:
    console = Console(file=io.StringIO(), width=160)
    return run_whole(
        expand(arguments),
        console=console,
        make_workbench=lambda grid: kind(grid.settings.device, grid.store),
    )


def rows_of(arguments: list[str]) -> dict[str, list[dict[str, object]]]:
    """Scores and training curves by file, without wall-clock time."""
    tables = json.loads(numbers(expand(arguments).store.root))
    assert tables
    return {
        name: [row for row in rows if row.get("key") != "seconds"] for name, rows in tables.items()
    }


def stored(cell: CellConfig, grid: Grid) -> Cell:
    description = describe(cell, grid.cells)
    return stored_cell(grid.store, description, cell_record(grid.store, description))


def test_a_grid_of_real_cells_resumed_in_the_middle_equals_one_straight_through(
    arguments: list[str], tmp_path: Path
) -> None:
    grid = expand(arguments)
    need = disk_need(grid, all_jobs(grid)).sizes
    assert go(arguments) == 0
    # Of the logs and tables beside the weights, which are small here, nothing is counted.
    written = sum(path.stat().st_size for path in grid.store.root.glob("*/*/**/*.safetensors"))
    assert need["snapshots"] + need["caches"] == pytest.approx(written, rel=0.1)
    assert not any(disk_need(grid, []).sizes.values())
    values = {}
    for cell in grid.cells:
        table = stored(cell, grid).tables.scores().to_pylist()
        values[cell.method_name] = [row["value"] for row in table if row["step"] in (0, 6)]
        # The oracle's, and that of the user's own reward function, which is a metric as well.
        prints = {(row["evaluator"], row["fingerprint"]) for row in table}
        assert {name for name, _ in prints} == {"oracle_aesthetic", "brightness"}
        assert len(prints) == 2
    assert len({tuple(scores) for scores in values.values()}) == 4
    last = stored(grid.cells[3], grid)
    assert last.state == "finished"
    assert last.budget["optimizer_steps"] == 6
    assert last.budget["reward_calls"] == 24
    assert last.has_diagnostics(str(last.data_key))

    resumed = [*arguments, f"output_dir={tmp_path / 'resumed'}"]
    with pytest.raises(KeyboardInterrupt):
        go(resumed, Interrupted)
    soar = next(cell for cell in grid.cells if cell.method_name == "soar")
    folder = trained_folder(expand(resumed).store, soar).root
    checkpoint = last_complete_checkpoint(folder)
    assert checkpoint is not None
    sizes = weight_bytes(soar)
    assert sizes is not None
    held = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    assert held == pytest.approx(sizes[1], rel=0.1)
    assert go(resumed) == 0
    assert rows_of(resumed) == rows_of(arguments)


def test_a_training_repeated_for_a_snapshot_has_the_bits_that_it_had(arguments: list[str]) -> None:
    others = ("method.group_size", "lora.rank")
    arguments = [word for word in arguments if not word.startswith(others)]
    arguments += ["method=[soar]", "diagnostics=false"]
    assert go(arguments) == 0
    # SOAR's update of 4 rows costs 88.
    more = [*arguments, "budget.costs=[176]"]
    grid = expand(more)
    folder = trained_folder(grid.store, grid.cells[1])
    before = {path: path.read_bytes() for path in folder.root.rglob("*.safetensors")}
    rows = rows_of(arguments)
    assert go(more) == 0
    after = {path: path.read_bytes() for path in folder.root.rglob("*.safetensors")}
    (made,) = after.keys() - before.keys()
    assert made.parent.name == "step-000002"
    assert after == {**before, made: after[made]}
    assert rows_of(more) == {**rows_of(more), **rows}
    assert stored(grid.cells[1], grid).steps == (2, 3, 6)


def test_a_reward_says_whether_it_runs_beside_the_model(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = expand([*arguments, "method=flow_grpo"])
    bench = ModelWorkbench("cpu", grid.store)
    (cell,) = (cell for cell in grid.cells if cell.method_name == "flow_grpo")
    model = bench.models.load(cell)
    for place, expected in (("cpu", False), ("server", True)):
        monkeypatch.setattr(brightness, "runs_on", place, raising=False)
        method = bench.method(cell, model)
        assert isinstance(method, FlowGrpo)
        assert method.world.is_reward_elsewhere is expected


def test_a_second_stage_starts_from_the_weights_of_its_first(arguments: list[str]) -> None:
    staged = ["grid=soar_then_grpo", *arguments[1:], "method=soar_then_flow_grpo"]
    assert go(staged) == 0
    grid = expand(staged)
    bench = ModelWorkbench("cpu", grid.store)
    cells = {cell.method_name: cell for cell in grid.cells}
    first, second = cells["soar"], cells["soar_then_flow_grpo"]
    snapshot = trained_folder(bench.store, first).snapshot(6)
    trained = load_file(snapshot / "diffusion_pytorch_model.safetensors")
    start = bench.models.at(second, 0).transformer
    for name, value in start.state_dict().items():
        assert value.equal(trained[name]), name
    after = bench.models.at(second, 6).transformer
    base = after.get_base_model().state_dict()
    for name, value in trained.items():
        kept = base.get(name, base.get(base_layer_name(name)))
        assert kept is not None
        assert kept.equal(value), name


class LoadedAnew(LoadedModel):
    """Loads base and snapshot for every step, and rounds what was trained last."""

    @override
    def at(self, cell: CellConfig, step: int) -> ImageModel:
        model = self.load_start(cell)
        if step > 0:
            assert cell.training is not None
            trained = prepare_transformer(model.transformer, cell.training, cell.lora)
            load_transformer(trained, trained_folder(self._store, cell).snapshot(step))
            model.transformer = trained.to(torch.bfloat16).requires_grad_(False).eval()
        return model


def pictures(bench: ModelWorkbench, cells: Sequence[CellConfig]) -> dict[str, list[bytes]]:
    """What every step of some cells draws."""
    batch = [(item, 0) for item in suite_named("lab_drawbench").items()[:2]]
    return {
        f"{cell.label} {step}": [image.tobytes() for image in bench.drawer(cell, step)(batch)]
        for cell in cells
        for step in cell.steps
    }


def test_rounded_snapshots_on_one_loaded_model_draw_the_same_bits(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments += ["model.dtype=bfloat16", "optim.learning_rate=0.01"]
    drawn, loads, load = {}, [], Sd3Config.load

    def counted(config: Sd3Config, device: torch.device, prompts: PromptEncoder) -> ImageModel:
        loads.append(config.name)
        return load(config, device, prompts)

    monkeypatch.setattr(Sd3Config, "load", counted)
    kinds = {None: LoadedAnew, torch.bfloat16: LoadedModel}
    for dtype, kind in kinds.items():
        kept = functools.partial(post_train_keeping, dtype)
        monkeypatch.setattr("soarbench.jobs.workbench.post_train", kept)
        grid = expand([*arguments, f"output_dir={tmp_path / str(dtype)}"])
        cells = [cell for cell in grid.cells if cell.method_name != "soar"]
        bench = ModelWorkbench("cpu", grid.store)
        bench.models = kind(bench.device, grid.store, bench.sets)
        for cell in cells[1:]:
            bench.train(cell, lambda *_: None)
            (file,) = trained_folder(bench.store, cell).snapshot(6).glob("*.safetensors")
            assert {v.dtype for v in load_file(file).values()} == {dtype or torch.float32}
        loads.clear()
        if kind is LoadedModel:
            # Twice the memory of weights in bf16, which no plan counts.
            monkeypatch.setattr(
                SD3Transformer2DModel, "float", lambda _: pytest.fail("all of them")
            )
        drawn[kind] = pictures(bench, cells)
        # The base and SFT's two steps, then Flow-GRPO's two with an adapter.
        assert len(loads) == (5 if kind is LoadedAnew else 2)
    assert drawn[LoadedModel] == drawn[LoadedAnew]
    assert len({images[0] for images in drawn[LoadedModel].values()}) == 5
    # From trained weights back to what training started from.
    start = bench.models.at(cells[-1], 0).transformer.state_dict()
    fresh = bench.models.load(cells[0]).transformer.state_dict()
    assert start.keys() == fresh.keys()
    assert all(value.equal(fresh[name]) for name, value in start.items())


def test_other_samplers_draw_other_images_with_the_weights_that_are_loaded(
    arguments: list[str],
) -> None:
    grid = expand(arguments)
    bench, cell = ModelWorkbench("cpu", grid.store), grid.cells[0]
    batch = [(item, 0) for item in suite_named("lab_drawbench").items()[:2]]
    usual = cell.sampling
    samplers = (usual, replace(usual, state_noise=0.5), replace(usual, num_inference_steps=3))
    drawn, models = [], []
    for sampling in (*samplers, usual):
        images = bench.drawer(replace(cell, sampling=sampling), 0)(batch)
        drawn.append([image.tobytes() for image in images])
        models.append(bench.models.at(cell, 0))
    assert drawn[0] == drawn[-1]
    assert len({images[0] for images in drawn}) == 3
    assert len(set(map(id, models))) == 1


def test_a_probing_asks_every_model_at_the_base_states_of_the_same_images(
    arguments: list[str],
) -> None:
    grid = expand(arguments)
    cell = next(cell for cell in grid.cells if cell.method_name == "sft")
    bench = ModelWorkbench("cpu", grid.store)
    bench.train(cell, lambda *_: None)
    base, last = grid.cells[0], cell.steps[-1]
    states = bench.base_states(base, cell)
    # Before training a cell is the base, to the bit.
    for level, state in bench.base_states(cell, cell).items():
        assert np.array_equal(state, states[level])
    untrained = bench.probe(base, cell, 0, states=states)
    assert bench.probe(base, cell, 0, states=states) == untrained
    trained = bench.probe(cell, cell, last, states=states)
    assert len(trained.exposure) == len(untrained.exposure) > 0
    assert [row["value"] for row in trained.exposure] != [
        row["value"] for row in untrained.exposure
    ]
    assert bench.probe(cell, cell, last, states=None).exposure == []


def post_train_keeping(dtype: torch.dtype | None, *arguments: Any, **options: Any) -> object:
    return post_train(*arguments, **{**options, "snapshot_dtype": dtype})


def base_layer_name(name: str) -> str:
    """Where peft keeps the weights under an adapter."""
    module, _, parameter = name.rpartition(".")
    return f"{module}.base_layer.{parameter}"


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("one_short", "returned 1 values for 2 images"),
        ("not_a_number", "returned nan for image 0 of 2"),
        ("no_such_function", "has no 'no_such_function'"),
        ("with_a_fault", "'with_a_fault' raised KeyError: 'a fault' ("),
        ("that_leaves", "'that_leaves' called sys.exit(7): raise an error instead"),
    ],
)
def test_a_bad_reward_is_refused_before_training(
    arguments: list[str], reward: str, message: str
) -> None:
    bad = [*arguments, f"reward=tests.rewards.{reward}", "method=flow_grpo"]
    with pytest.raises(UserError) as caught:
        go(bad)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(expand(bad).store.root.rglob("training.jsonl"))


def test_layers_that_the_model_lacks_are_refused_before_training(arguments: list[str]) -> None:
    lora = "lora={rank:2,alpha:2,target_modules:[to_q,to_nothing]}"
    with pytest.raises(UserError, match=r"target_modules=.*has no layer 'to_nothing'"):
        go([*arguments, lora, "method=flow_grpo"])


@pytest.mark.parametrize(
    ("reward", "kinds"),
    [
        ("geneval", "[counting,color_attr]"),
        ("ocr", "[text]"),
        ("{geneval:0.5,ocr:0.5}", "[counting,text]"),
        ("tests.rewards.Dullness", "null"),
    ],
)
def test_every_judge_and_a_users_own_is_a_reward(
    arguments: list[str], reward: str, kinds: str
) -> None:
    more = [f"reward={reward}", f"data.kinds={kinds}", "method=flow_grpo", "training.steps=2"]
    more += ["training.num_snapshots=1", "training.save_steps=2", "data.keep_fraction=0.9"]
    assert go([*arguments, *more]) == 0
    grid = expand([*arguments, *more])
    folder = trained_folder(grid.store, grid.cells[-1])
    logged = pq.read_table(folder.table_path).to_pylist()
    means = [row["value"] for row in logged if row["key"] == "rollout/reward_mean"]
    assert means
    assert all(math.isfinite(mean) for mean in means)


def test_a_reward_that_cannot_judge_the_prompts_is_refused(arguments: list[str]) -> None:
    for reward, why in (("ocr", "no text in double quotes"), ("geneval", "tag is None")):
        kinds = "[counting]" if reward == "ocr" else "[text]"
        bad = [*arguments, f"reward={reward}", f"data.kinds={kinds}", "method=flow_grpo"]
        with pytest.raises(UserError, match=f"'{reward}' cannot judge 4 of 4.*{why}") as caught:
            go(bad)
        assert "\n" not in str(caught.value)


def test_training_on_an_evaluation_prompt_is_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = suite_named("lab_drawbench").items()[0].prompt.upper()
    bench = ModelWorkbench("cpu", Store(tmp_path))
    rows = EncodedRows([prompt], None, lambda _: {}, [(64, 64)])
    monkeypatch.setattr(bench.sets, "rows", lambda *_: rows)
    jobs = grid_jobs(expand(arguments).cells, diagnostics=False)
    with pytest.raises(UserError, match="is also in the evaluation suite 'lab_drawbench'"):
        bench.prepare(jobs)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="device=cuda:99: this machine has"):
        ModelWorkbench("cuda:99", Store(Path()))


def test_training_on_another_gpu_than_the_first_is_refused(
    arguments: list[str], tmp_path: Path
) -> None:
    bench = ModelWorkbench("cpu", Store(tmp_path))
    # As a configuration file may say; of a command line the command hides the others.
    bench.device = torch.device("cuda:1")
    with pytest.raises(UserError, match=r"cuda:1: .* CUDA_VISIBLE_DEVICES=1 with device=cuda"):
        bench.prepare(grid_jobs(expand(arguments).cells, diagnostics=False))


def test_training_reads_as_many_tokens_as_its_recipe_says_and_evaluation_as_the_model(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_tiny_pipeline(tmp_path / "with_t5", has_t5=True)
    text = ["model.load_text_encoder_3=true", "model.max_sequence_length=9"]
    words = [*arguments, f"model.path={path}", *text, "training.max_sequence_length=3"]
    grid = expand([*words, "budget.steps=2", "budget.num_snapshots=1"])
    cell, tokens = grid.cells[1], []

    def noted(model: Any, method: Any, rows: EncodedRows, *args: Any, **kw: Any) -> object:
        tokens.append(rows[0]["condition"]["prompt_embeds"].shape[0])
        tokens.append(kw["negative_condition"]["prompt_embeds"].shape[1])
        return post_train(model, method, rows, *args, **kw)

    monkeypatch.setattr("soarbench.jobs.workbench.post_train", noted)
    bench = ModelWorkbench("cpu", grid.store)
    bench.train(cell, lambda _step, _note: None)
    probed = bench._probing(cell, cell, 0).rows
    clip = tokens[0] - 3
    assert tokens == [clip + 3, clip + 3]
    assert probed.condition["prompt_embeds"].shape[1] == clip + 9
    assert probed.negative_condition["prompt_embeds"].shape[1] == clip + 9
