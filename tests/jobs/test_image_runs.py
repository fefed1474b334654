"""The same command on somebody's images: one word changed, every method, resumed and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from soarbench.cli.app import main
from soarbench.common.errors import ConfigError, UserError
from soarbench.config.registries import suite_named
from soarbench.data.config import ImageDataConfig
from soarbench.data.forms import JsonlDataConfig
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.distributed import DistributedWorkbench
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.loaded import LoadedModel
from soarbench.jobs.train import trained_folder
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.lab.world.oracles import aesthetic_truth
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model
from soarbench.store.training import read_training_log
from tests.fakes import SMALL
from tests.jobs.test_workbench import Interrupted, go, rows_of
from tests.sets import picture, write_set
from tests.tiny import build_tiny_pipeline

SD35 = ["grid=reward_specific", "model=sd35_medium", "data=jsonl"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def arguments(pipeline: Path, tmp_path: Path) -> list[str]:
    data = write_set(tmp_path / "set", count=12)
    return [
        "grid=reward_specific",
        "task=aesthetic",
        "grid.tasks=[aesthetic]",
        f"model.path={pipeline}",
        "data=jsonl",
        f"data.path={data}",
        "data.thresholds={beauty:2}",
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
        "suites.drawbench.judges=[oracle_aesthetic]",
        "task.final_metric=oracle_aesthetic",
        "reward=tests.rewards.brightness",
    ]


BUCKETS = ("data.bucket_step=16", "data.rows_per_bucket=2", "training.micro_batch_size=2")


@pytest.mark.slow
def test_a_grid_on_images_of_several_shapes_resumed_equals_one_straight_through(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load_encoders = Sd3Config.load_encoders
    monkeypatch.setattr(
        Sd3Config, "load_encoders", lambda *words: (loaded.append(1), load_encoders(*words))[1]
    )
    shaped = [*arguments, *BUCKETS]
    assert go(shaped) == 0
    assert len(loaded) == 1
    methods = {cell.method_name for cell in expand(shaped).cells}
    assert methods == {"base", "sft", "soar", "flow_grpo"}
    resumed = [*shaped, f"output_dir={tmp_path / 'resumed'}"]
    with pytest.raises(KeyboardInterrupt):
        go(resumed, Interrupted)
    assert go(resumed) == 0
    assert rows_of(resumed) == rows_of(shaped)


def sft(grid: Grid) -> CellConfig:
    return next(cell for cell in grid.cells if cell.method_name == "sft")


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [(), BUCKETS, ("data.cache_latents=false",), ("data.thresholds={oracle_aesthetic:2.5}",)],
)
def test_training_rows_are_the_set(arguments: list[str], extra: tuple[str, ...]) -> None:
    cell = sft(grid := expand([*arguments, *extra]))
    bench = ModelWorkbench("cpu", grid.store)
    model = bench.models.load(cell)
    assert model.pipeline.text_encoder is None
    rows = bench.sets.rows(cell, model)
    if "oracle_aesthetic" in str(extra):
        truths = [aesthetic_truth(np.asarray(picture(number))) for number in range(12)]
        kept = [number for number, truth in enumerate(truths) if truth >= 2.5]
        assert 0 < len(kept) < 12
        assert rows.prompts == [f"a drawing number {number}" for number in kept]
        return
    assert rows.prompts == [f"a drawing number {number}" for number in range(2, 12)]
    whole = SD3Model.load(cell.model)
    expected = whole.encode_prompts([rows.prompts[3]])
    for name, value in rows[3]["condition"].items():
        assert torch.allclose(value, expected[name][0], atol=1e-5)
    # Rows 2, 5, 8, 11 of the set stand.
    wide = [tuple(rows[index]["x0"].shape) for index in (0, 1)]
    assert wide == [(8, 10, 6) if extra == BUCKETS else (8, 8, 8), (8, 8, 8)]
    assert all(row["x0"].dtype is torch.float32 for row in (rows[0], rows[1]))


def test_images_are_not_encoded_in_processes_that_load_data_for_a_gpu(
    arguments: list[str],
) -> None:
    grid = expand([*arguments, "data.cache_latents=false", "training.num_workers=2"])
    bench = ModelWorkbench("cpu", grid.store)
    bench.device = torch.device("cuda")
    with pytest.raises(UserError, match=r"num_workers=2 with data\.cache_latents=false: images"):
        bench.prepare(grid_jobs([sft(grid)], diagnostics=False))


@pytest.mark.slow
def test_two_processes_train_on_shapes_as_one_does(arguments: list[str], tmp_path: Path) -> None:
    own = [word for word in arguments if not word.startswith(("method.", "lora.", "reward="))]
    shaped = [*own, *BUCKETS, "method=sft"]
    logs = []
    for extra in ((), ("launcher.num_processes=2",)):
        grid = expand([*shaped, *extra, f"output_dir={tmp_path / str(len(extra))}"])
        bench = DistributedWorkbench(grid) if extra else ModelWorkbench("cpu", grid.store)
        folder = trained_folder(bench.store, sft(grid))
        folder.root.mkdir(parents=True)
        bench.sets.rows(sft(grid), bench.models.load(sft(grid)))
        bench.train(sft(grid), lambda *_: None)
        weights = load_file(folder.snapshot(6) / "diffusion_pytorch_model.safetensors")
        log = read_training_log(folder)
        logs.append(([log[step, "train/loss"] for step in range(1, 7)], weights))
    (one, weights), (two, others) = logs
    assert two == pytest.approx(one, abs=1e-5)
    for name, value in weights.items():
        assert torch.allclose(others[name], value, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": ""}, "the caption is empty"),
        ({"caption": "x" * 10_000}, "the caption has 10000 characters"),
        ({"image": "images/none.png"}, "images cannot be used, more than data.max_unreadable=0"),
        ({"scores": {"beauty": 9, "x": "y"}}, "score x='y' must be a finite number"),
    ],
)
def test_a_bad_row_is_refused_before_weights_are_loaded(
    arguments: list[str],
    tmp_path: Path,
    change: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(LoadedModel, "load", refuse)
    monkeypatch.setattr(Sd3Config, "load_encoders", refuse)
    write_set(tmp_path / "set", count=12, changes={7: change})
    with pytest.raises(UserError) as caught:
        go(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_training_on_an_evaluation_prompt_is_refused(arguments: list[str], tmp_path: Path) -> None:
    caption = suite_named("lab_drawbench").items()[0].prompt
    write_set(tmp_path / "set", count=12, changes={7: {"caption": caption}})
    with pytest.raises(UserError, match="is also in the evaluation suite 'lab_drawbench'"):
        go(arguments)


def test_the_published_set_is_one_word_away(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    grid = expand([*SD35, f"data.path={path}"])
    data = {
        cell.task_name: cell.data for cell in grid.cells if isinstance(cell.data, ImageDataConfig)
    }
    assert data["aesthetic"].thresholds == {"aesthetic": 6.8}
    assert data["alignment"].thresholds == {"clipscore": 0.4}
    assert not grid.without_data
    changed = expand([*SD35, f"data.path={path}", "data.thresholds={aesthetic:5}"])
    assert isinstance(changed.cells[1].data, JsonlDataConfig)
    assert changed.cells[1].data.thresholds == {"aesthetic": 5.0}
    assert main(["run", *SD35, f"data.path={path}", "--dry-run"]) == 0


def test_a_set_that_is_not_named_yet_is_only_refused_when_it_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts_file = tmp_path / "prompts.txt"
    prompts_file.write_text("a cat\n")
    words = [*SD35, f"suites.drawbench.prompts={prompts_file}"]
    assert expand(words).without_data
    assert not expand([*words, "method=base"]).without_data
    assert main(["run", *words, "--dry-run"]) == 0
    assert "data.path=FILE" in capsys.readouterr().out
    assert main(["run", *words, f"output_dir={tmp_path}"]) == 2
    assert "there is nothing to train on: give data.path=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["data.bucket_step=24"], r"bucket_step=24: must be a multiple of 16"),
        (["data.bucket_step=16"], r"micro_batch_size=32: .* must divide data\.rows_per_bucket=4"),
        (["data.max_aspect_ratio=9", "data.bucket_step=16"], "positions for 128"),
        (["data.thresholds={beauty:high}"], r"data\.thresholds\.beauty='high' must be a number"),
        (["data.rank_by=[beauty]"], r"data: keep_fraction=1\.0 with rank_by=\['beauty'\]"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    pipeline: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    words = ["grid=reward_specific", f"model.path={pipeline}", "data=jsonl", "method=sft"]
    words += [f"data.path={write_set(tmp_path)}"]
    if "rows_per_bucket" not in message:
        words.append("training.micro_batch_size=4")
    with pytest.raises(ConfigError, match=message):
        expand([*words, *extra])
