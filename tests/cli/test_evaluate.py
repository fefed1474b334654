"""A model draws and the judges score, in one command."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from evaluators.base import Score
from soarbench.cli.app import main
from soarbench.cli.compare import CompareOptions, compare
from soarbench.cli.evaluate import Evaluation, model_words, read_evaluation
from soarbench.cli.words import read
from soarbench.evaluation import drawing
from soarbench.evaluation.protocol import fingerprint, image_facts, judge_facts
from soarbench.evaluation.request import EvaluateOptions
from soarbench.evaluation.rows import ScoreRows
from soarbench.evaluation.selection import suite_images
from soarbench.grid import addresses
from soarbench.grid.expand import expand
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.lab.judges import LabGenEvalConfig, OracleAesthetic
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model
from soarbench.store.artefact import Store
from tests.models.test_adapter import published_lora
from tests.tiny import build_tiny_pipeline

QUICK = ["model.resolution=64", "model.dtype=float32", "device=cpu"]
QUICK += ["sampling.num_inference_steps=2", "sampling.batch_size=2"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_pipeline(tmp_path_factory.mktemp("tiny model, with = and spaces"))


def words(pipeline: Path, output: Path, *more: str) -> list[str]:
    """Five prompts with two images each; every output has artefacts of its own beside it."""
    key = "suites.lab_geneval"
    suite = ["suite=lab_geneval", f"{key}.max_prompts=5", f"{key}.images_per_prompt=2"]
    store = f"output_dir={output.with_suffix('.store')}"
    return [*suite, f"model={pipeline}", f"output={output}", store, *QUICK, *more]


def evaluated(pipeline: Path, output: Path, *more: str) -> int:
    return main(["evaluate", *words(pipeline, output, *more)])


def request_of(pipeline: Path, output: Path) -> Evaluation:
    return read_evaluation(*read(EvaluateOptions, words(pipeline, output)))


def summaries(output: Path) -> dict[str, dict[str, object]]:
    return json.loads((output / "summary.json").read_text())["judges"]


def rows(output: Path, judge: str = "geneval") -> list[dict[str, object]]:
    return ScoreRows(output / str(summaries(output)[judge]["scores"])).read()


def images(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def compared(first: Path, second: Path) -> list[dict[str, object]]:
    stream = io.StringIO()
    console = Console(file=stream)
    request = read(CompareOptions, [])
    assert compare(str(first), str(second), *request, as_json=True, console=console) == 0
    return json.loads(stream.getvalue())["metrics"]


def test_draws_and_scores_under_the_fingerprint_of_a_run(pipeline: Path, tmp_path: Path) -> None:
    assert evaluated(pipeline, tmp_path / "out") == 0
    request = request_of(pipeline, tmp_path / "out")
    pairs = suite_images(request.scoring.suite)
    judged = rows(tmp_path / "out")
    assert [(row["prompt_id"], row["prompt"], row["image_index"]) for row in judged] == [
        (item.prompt_id, item.prompt, index) for item, index in pairs
    ]
    facts = {
        **image_facts(
            request.scoring.suite,
            request.cell.model,
            request.cell.sampling,
            {"scheduler": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        ),
        **judge_facts(LabGenEvalConfig().build()),
    }
    assert {row["fingerprint"] for row in judged} == {fingerprint(facts)}
    summary = summaries(tmp_path / "out")["geneval"]
    assert (summary["num_images"], summary["num_prompts"]) == (10, 5)
    shown = images(tmp_path / "out/images")
    assert list(shown)[:3] == [
        *("00000/samples/0000.png", "00000/samples/0001.png", "00001/samples/0000.png")
    ]
    assert len(set(shown.values())) == 10


def test_images_are_those_that_a_run_draws(pipeline: Path, tmp_path: Path) -> None:
    assert evaluated(pipeline, tmp_path / "out") == 0
    request = request_of(pipeline, tmp_path / "out")
    pairs = suite_images(request.scoring.suite)[:2]
    drawn = ModelWorkbench("cpu", Store(tmp_path)).drawer(request.cell, 0)(pairs)
    for index, image in enumerate(drawn):
        image.save(tmp_path / "again.png")
        again = (tmp_path / "again.png").read_bytes()
        assert again == images(tmp_path / "out/images")[f"00000/samples/{index:04d}.png"]


def test_a_run_has_the_same_artefacts() -> None:
    alone = read_evaluation(*read(EvaluateOptions, ["suite=lab_geneval", "model=lab"]))
    base = expand(["grid=main_table", "grid.tasks=[general]"]).cells[0]
    suite = base.suites["lab_geneval"]
    evaluated = addresses.scores(alone.cell, 0, alone.scoring.suite, "geneval")
    assert evaluated == addresses.scores(base, 0, suite, "geneval")


def test_what_it_draws_is_read_by_score_and_compares(pipeline: Path, tmp_path: Path) -> None:
    assert evaluated(pipeline, tmp_path / "out") == 0
    command = ["score", "suite=lab_geneval", f"images={tmp_path / 'out/images'}"]
    command += [f"output={tmp_path / 'again'}", "coverage=found"]
    assert main(command) == 0
    verdicts = [[row["value"] for row in rows(tmp_path / name)] for name in ("out", "again")]
    assert verdicts[0] == verdicts[1]
    (answer,) = compared(tmp_path / "again", tmp_path / "out")
    assert (answer["suite"], answer["metric"]) == ("lab_geneval", "geneval")
    assert answer["first"] == answer["second"]
    assert answer["difference"]["num_prompts"] == 5


def test_interrupted_drawing_goes_on_and_ends_equal(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluated(pipeline, tmp_path / "whole") == 0
    save, saved = drawing._write, []

    def stops(*args: object) -> None:
        saved.append(args)
        if len(saved) == 4:
            raise KeyboardInterrupt
        save(*args)

    monkeypatch.setattr(drawing, "_write", stops)
    assert evaluated(pipeline, tmp_path / "parts") == 130
    # Another thread may have written some of those after it.
    kept = len(images(tmp_path / "parts.store"))
    assert 3 <= kept < 10
    assert not (tmp_path / "parts/summary.json").exists()
    monkeypatch.setattr(drawing, "_write", lambda *args: saved.append(args) or save(*args))
    saved.clear()
    assert evaluated(pipeline, tmp_path / "parts") == 0
    assert len(saved) == 10 - kept
    assert images(tmp_path / "parts/images") == images(tmp_path / "whole/images")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_second_launch_loads_no_model_and_other_judges_take_the_same_images(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluated(pipeline, tmp_path / "out") == 0
    monkeypatch.setattr(SD3Model, "load", lambda *_: pytest.fail("loaded again"))
    assert evaluated(pipeline, tmp_path / "out") == 0
    assert evaluated(pipeline, tmp_path / "out", "suites.lab_geneval.judges=oracle_aesthetic") == 0
    assert len(rows(tmp_path / "out", "oracle_aesthetic")) == 10
    store = f"output_dir={tmp_path / 'out.store'}"
    assert evaluated(pipeline, tmp_path / "other", store) == 0
    assert images(tmp_path / "other/images") == images(tmp_path / "out/images")


def test_text_encoders_are_gone_before_the_model_is_loaded(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load, load_encoders = Sd3Config.load, Sd3Config.load_encoders
    monkeypatch.setattr(Sd3Config, "load", lambda *words: (loaded.append("model"), load(*words))[1])
    monkeypatch.setattr(
        Sd3Config, "load_encoders", lambda *words: (loaded.append("text"), load_encoders(*words))[1]
    )
    assert evaluated(pipeline, tmp_path / "out", "suites.lab_geneval.max_prompts=1") == 0
    assert loaded == ["text", "model"]


def test_part_of_a_suite_is_compared_as_that_part(pipeline: Path, tmp_path: Path) -> None:
    assert evaluated(pipeline, tmp_path / "all") == 0
    part = ["suites.lab_geneval.max_prompts=2", f"output_dir={tmp_path / 'all.store'}"]
    assert evaluated(pipeline, tmp_path / "part", *part) == 0
    published_lora(tmp_path / "lora")
    adapted = [*part, f"model.adapter={tmp_path / 'lora'}"]
    assert evaluated(pipeline, tmp_path / "adapted", *adapted) == 0
    (answer,) = compared(tmp_path / "part", tmp_path / "adapted")
    assert answer["difference"]["num_prompts"] == 2


def test_published_weights_on_the_model(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published_lora(tmp_path / "lora")
    assert evaluated(pipeline, tmp_path / "base") == 0
    assert evaluated(pipeline, tmp_path / "adapted", f"model.adapter={tmp_path / 'lora'}") == 0
    assert images(tmp_path / "base/images") != images(tmp_path / "adapted/images")
    prints = [{row["fingerprint"] for row in rows(tmp_path / name)} for name in ("base", "adapted")]
    assert prints[0] == prints[1]
    assert evaluated(pipeline, tmp_path / "base", f"model.adapter={tmp_path / 'lora'}") == 2
    assert "holds images of another request (unlike in base)" in capsys.readouterr().err


def test_an_image_without_a_score_is_exit_code_3(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = OracleAesthetic.score
    pairs = suite_images(request_of(pipeline, tmp_path / "out").scoring.suite)
    item, index = pairs[5]

    def fails_once(self: OracleAesthetic, samples: list) -> list[Score]:
        return [
            Score.unscored(one.sample_id, "too dark")
            if one.sample_id == f"{item.prompt_id}/{index:04d}"
            else one
            for one in score(self, samples)
        ]

    monkeypatch.setattr(OracleAesthetic, "score", fails_once)
    assert evaluated(pipeline, tmp_path / "out", "suites.lab_geneval.judges=oracle_aesthetic") == 3
    row = rows(tmp_path / "out", "oracle_aesthetic")[5]
    assert math.isnan(float(str(row["value"])))
    assert row["reason"] == "too dark"
    assert summaries(tmp_path / "out")["oracle_aesthetic"]["unscored"] == 1


def test_prompts_of_a_file_each_with_its_images(pipeline: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\na dog\na cat\n")
    command = [f"suites.drawbench.prompts={prompts}", "suite=drawbench"]
    command += ["suites.drawbench.images_per_prompt=2", "suites.drawbench.judges=oracle_aesthetic"]
    command += [f"model={pipeline}", f"output={tmp_path / 'out'}", f"output_dir={tmp_path}"]
    assert main(["evaluate", *command, *QUICK]) == 0
    judged = rows(tmp_path / "out", "oracle_aesthetic")
    assert [row["prompt"] for row in judged] == ["a cat", "a cat", "a dog", "a dog"]


def test_other_weights_and_settings_are_refused_and_nothing_is_written_over(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(pipeline, tmp_path / "out") == 0
    before = images(tmp_path / "out/images")
    capsys.readouterr()
    for more, message in (
        ("sampling.guidance_scale=2", "unlike in sampling"),
        ("suites.lab_geneval.max_prompts=4", "unlike in max_prompts"),
        ("suites.lab_geneval.images_per_prompt=1", "unlike in images_per_prompt"),
    ):
        assert evaluated(pipeline, tmp_path / "out", more) == 2
        text = capsys.readouterr().err
        assert message in text
        assert text.count("\n") == 1
    assert images(tmp_path / "out/images") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["suite="], "suite= is empty"),
        (["suite=genevl"], "suites.lab_geneval: the suite is suite=genevl"),
        (["suite=ocr"], "suites.lab_geneval: the suite is suite=ocr"),
        (["prompts=x.txt"], "prompts=x.txt: this is called suites.NAME.prompts=... now"),
        (["suites.lab_geneval.prompts=/nowhere.txt"], "has prompts of its own"),
        (["suites.lab_geneval.max_prompts=0"], "max_prompts=0 must be a whole number from 1"),
        (["images=x"], "there is no key 'images' here; did you mean"),
        (["sampling.guidance=1"], "did you mean 'sampling.guidance_scale'"),
        (["judges.ocr=x"], "did you mean 'judge.ocr'"),
        (["suites.lab_geneval.judges=genevl"], "did you mean"),
        (["judge.ocr.min_side=64"], "judge.ocr is configured, but not among"),
        (["model=sd3"], "sd35_medium, z_image, z_image_turbo, nor a directory"),
        (["model=/nowhere"], "no model_index.json there"),
        (["model.resolution=512"], "this model draws 16 to 128 pixels"),
        (["model.resolutoin=64"], "did you mean 'model.resolution'"),
        (["sampling.num_inference_steps=0"], "must be in 1..10000"),
        (["sampling.guidance_scale=inf"], "guidance_scale=inf: must be in 1..1000"),
        (["model.resolution=63"], "must be a multiple of"),
        (["device=foo"], "device='foo': must be auto, cpu, cuda or cuda:N"),
        (["suites.lab_geneval.judges=ocr"], "no text in double quotes"),
    ],
)
def test_misuse_is_one_line_and_writes_nothing(
    more: list[str],
    message: str,
    pipeline: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluated(pipeline, tmp_path / "out", *more) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_nowhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    command = ["evaluate", "suite=lab_geneval", "model=nobody/no-such-model"]
    assert main([*command, f"output={tmp_path / 'out'}"]) == 2
    text = capsys.readouterr().err
    assert "nobody/no-such-model" in text
    assert text.count("\n") == 1


def test_judges_are_tried_before_the_model_draws(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["suites.lab_geneval.judges=clipscore", f"judge.clipscore.weights={tmp_path}"]
    assert evaluated(pipeline, tmp_path / "out", *more) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out/images").exists()


def test_models_by_name_directory_and_hub_id(tmp_path: Path) -> None:
    assert model_words("lab") == ["model=lab"]
    assert model_words("stabilityai/stable-diffusion-3.5-medium") == ["model=sd35_medium"]
    assert model_words("me/mine@v2")[1:] == [
        'model.path="me/mine"',
        'model.name="mine"',
        'model.revision="v2"',
    ]
    assert model_words(str(tmp_path))[1] == f'model.path="{tmp_path}"'


def test_a_damaged_image_is_drawn_again_and_shown(pipeline: Path, tmp_path: Path) -> None:
    assert evaluated(pipeline, tmp_path / "out") == 0
    before = images(tmp_path / "out/images")
    store = tmp_path / "out.store"
    shutil.rmtree(store / "scores")
    damaged = sorted((store / "images").rglob("*.png"))[0]
    damaged.write_bytes(b"")
    assert images(tmp_path / "out/images") != before
    assert evaluated(pipeline, tmp_path / "out") == 0
    assert images(tmp_path / "out/images") == before
    assert len(rows(tmp_path / "out")) == 10
