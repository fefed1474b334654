"""What cannot work is refused in one line that names the value and the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from baselines.config import TrainingConfig
from evaluators.preference.clipscore import ClipScoreConfig
from soarbench.common.errors import ConfigError, UserError
from soarbench.config.overrides import parse_overrides
from soarbench.config.settings import SamplingConfig
from soarbench.evaluation.suites import OfficialGenEval
from soarbench.grid import addresses
from soarbench.grid.expand import expand

#: Stands for a training set that lies on no test machine's disk.
ANY_DATA = "data=lab_general"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["method.aux_wieght=1"], "did you mean 'method.aux_weight'"),
        (["method.aux_weight=much"], "method.aux_weight='much' must be a number"),
        (["method.aux_weight=-1"], "aux_weight = -1.0"),
        (
            ["method=dpo"],
            "method='dpo' does not exist: choose one of awm, base, best_of_group, diffusion_nft, ",
        ),
        (["task=beauty"], "task='beauty' does not exist"),
        (["task=general"], "task='general' is not part of grid 'reward_specific'"),
        (["budget=quik"], "budget='quik' does not exist: did you mean 'quick'?"),
        (["budget.steps=many"], "budget.steps='many' must be an integer"),
        (["budget.steps=0"], "steps=0"),
        (["budget.steps=99999999999999999999"], "must be in 1..1000000000"),
        (["budget.steps=" + "9" * 5000], "is not an override: write key=value"),
        (["seeds=[]"], "seeds=[]: give different integers in 0..4294967295"),
        (["seeds=[4294967296]"], "seeds=[4294967296]: give different integers in 0..4294967295"),
        (["grid.name=../evil"], "grid.name='../evil': is the name of folders"),
        (["grid.name=."], "grid.name='.': is the name of folders"),
        (["budget.name=../evil"], "budget.name='../evil': is the name of folders"),
        (["task.name=../evil"], "task.name='../evil': is the name of folders"),
        (["tracking.uri=sqlite://"], "is a store in memory, which is lost"),
        (["tracking.uri=http://[::1"], "is no address (Invalid IPv6 URL); write sqlite:"),
        (["tracking.uri=http://me:hush@"], "names no host"),
        (["tracking.uri=htp://me:hush@h"], "no store whose address begins with 'htp'; write"),
        (["tracking.uri=localhost:5000"], "begins with 'localhost'; write"),
        (["tracking.uri=http://h:99999"], "Port out of range"),
        (["grid.baseline=sfft"], "grid.baseline: 'sfft' does not exist: did you mean 'sft'?"),
        (["sampling.guidance_scale=inf"], "guidance_scale=inf: must be in 1..1000"),
        (["sampling.guidance_scale=1e30"], "guidance_scale=1e+30: must be in 1..1000"),
        (["sampling.guidance_scale=0"], "guidance_scale=0.0: must be in 1..1000"),
        (["method.guidance_scale=1e30"], "use 1.0 (no guidance) to 1000"),
        (["sampling.guidance_scale=nan"], "sampling.guidance_scale=nan: must be a number"),
        (
            ["reward.clipscore=1"],
            "reward.clipscore=1: reward is 'aesthetic', give the group: reward={clipscore: 1}",
        ),
        (["reward=geneval", "reward.clipscore=1"], "reward is 'geneval', give the group: reward={"),
        (
            ["task=general", "grid.tasks=[general]", "reward.geneval=1"],
            "reward.geneval=1: reward is null, give the group: reward={geneval: 1}",
        ),
        (["tracking.uri.x=1"], "there is no key 'tracking.uri.x' here; did you mean"),
        (["reward={aesthetic:inf}"], "weights must be finite, and one of them not 0"),
        (["reward={aesthetic:0,geneval:0}"], "weights must be finite, and one of them not 0"),
        (["data.select_by=[]"], "data.select_by=[] with data.keep_fraction=0.3: name the scores"),
        (["data.seed=-1"], "data.seed=-1: must be at least 0"),
        (["seeds=[1,1]"], "seeds=[1, 1]"),
        (["seeds=a"], "seeds[0]='a' must be an integer"),
        (["figure_formats=[pdf]"], "png must be among them"),
        (["figure_formats=[gif]"], "must be one of png, pdf, svg"),
        (["margin=CLIPScore"], "margin=CLIPScore: write METRIC:NUMBER"),
        (["margin=CLIPScore:-1"], "number above 0"),
        (["detect=[CLIPScore:0.01,GenEval:nan]"], "detect=GenEval:nan: write METRIC:NUMBER"),
        (["margin=oracle_genevl:0.01"], "decides no task here; did you mean 'oracle_geneval'"),
        (["detect=GenEval:0.01"], "detect=GenEval: decides no task here"),
        # It is measured, and decides nothing.
        (["margin=CLIPScore:0.01"], "margin=CLIPScore: decides no task here"),
        (["margin=oracle_geneval:0.01", "task=aesthetic"], "margin=oracle_geneval: decides no"),
        (["grid.checkpoint_rule=best"], "must be last, or best:NAME"),
        (["seeds=[0"], "is not an override: write key=value"),
        (["budget"], "is not an override: write key=value"),
        (["device=tpu"], "device='tpu': must be auto, cpu, cuda or cuda:N"),
        (["model.path=/nowhere/model"], "model.path=/nowhere/model: no model_index.json there"),
        (["model.path=./nowhere"], "model.path=./nowhere: no model_index.json there"),
        (["model.dtype=int8"], "model.dtype='int8'"),
        (["reward=beauty"], "reward='beauty' does not exist: choose one of"),
        (["reward=beauty", "method=sft"], "reward='beauty' does not exist: choose one of"),
        (["tracking=none", "tracking.register=mine"], "registers nothing with tracking=none"),
        (["tracking=none", "tracking.uri=sqlite:///x.db"], "uri: nothing is logged there"),
        (["tracking=none", "tracking.artifacts=/x"], "artifacts: nothing is logged there"),
        (["reward=no_such_module.f"], "no module 'no_such_module' can be found"),
        (
            ["reward=soarbench.no_such_module.f"],
            "no module 'soarbench.no_such_module' can be found",
        ),
        (["reward=null", "task=aesthetic"], "has no reward, which flow_grpo needs"),
        (["training.save_steps=3"], "multiple of the method's updates_per_collection=2"),
        (["training.save_minutes=0"], "save_minutes=0.0: must be a positive number, or null"),
        (["training.batch_size=31"], "multiple of the method's group_size=8"),
        (["training.num_snapshots=7"], "must be at most training.steps=6"),
        (["suites.drawbench.judges=[beauty]"], "'beauty' does not exist"),
        (["suites.drawbench.judges=[clipscore]"], "decides by 'oracle_aesthetic', which no suite"),
        (["suites.drawbench.images_per_prompt=0"], "images_per_prompt=0: must be in 1..100000"),
        (["suites.drawbench.images_per_prompt=9999999999999999999"], "must be in 1..100000"),
        (["data.select_by=[beauty]"], "data.select_by: 'beauty' does not exist"),
        (["data.keep_fraction=2"], "data.keep_fraction=2.0: must be in (0, 1]"),
        (["grid.tasks=[beauty]"], "grid.tasks: 'beauty' does not exist"),
        (["grid.methods=[]"], "name each once, and at least one"),
        (["+method.new=1"], "keys cannot be added or removed"),
        (["~seeds"], "keys cannot be added or removed"),
        (["budget.steps=10,20"], "only method, task and a method's settings (method, optim, lora"),
        (["suite=lab_ocr"], "there is no key 'suite' here; did you mean 'suites'"),
        (["suites.drawbench._target_=nothing.Suite"], "suites.drawbench._target_='nothing.Suite'"),
        (["judge.ocr._target_=3"], "judge.ocr"),
        (["judge=ocr"], "judge='ocr' must be a group of keys"),
        (["evaluators.ocr.min_side=64"], "judge.ocr.min_side"),
    ],
)
def test_bad_input_is_one_line_that_names_value_and_remedy(
    overrides: list[str], extra: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        expand([*overrides, *extra])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "resolution", "message"),
    [
        ("lab", 63, "must be a multiple of 16, the side of a token; use 48"),
        ("lab", 100_000, "this model draws 16 to 64 pixels"),
        ("sd35_medium", 1000, "must be a multiple of 16, the side of a token; use 992"),
    ],
)
def test_a_size_that_the_model_cannot_make_is_refused(
    model: str, resolution: int, message: str
) -> None:
    words = ["grid=reward_specific", f"model={model}", "budget=quick", ANY_DATA]
    with pytest.raises(ConfigError, match=f"model.resolution={resolution}: {message}"):
        expand([*words, f"model.resolution={resolution}"])


def test_without_a_grid_the_grids_are_listed() -> None:
    listed = r"name a grid: .*main_table.*reward_specific.*soar_then_grpo.*ls grids"
    with pytest.raises(ConfigError, match=listed):
        expand([])


def test_several_methods_or_tasks_are_read_as_a_list_or_a_sweep() -> None:
    assert parse_overrides(["method=sft,soar"]).axes == {"method": ("sft", "soar")}
    assert parse_overrides(["method=[sft,soar]"]).axes == {"method": ("sft", "soar")}
    assert parse_overrides(["task=aesthetic"]).axes == {"task": ("aesthetic",)}


def test_snapshots_are_evenly_spaced_and_end_at_the_last_step() -> None:
    config = TrainingConfig(steps=10, batch_size=1, save_steps=5, num_snapshots=3)
    assert config.snapshot_steps == (3, 7, 10)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size=0: must be in 1\.\."):
        SamplingConfig(num_inference_steps=1, guidance_scale=1.0, batch_size=0)
    with pytest.raises(ValueError, match=r"max_prompts=0: must be in 1\.\.100000"):
        OfficialGenEval(name="a", judges=("b",), max_prompts=0)


def test_a_directory_without_a_pipeline_is_named(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model_index\.json there; give a directory saved by"):
        expand([*overrides, f"model.path={tmp_path}"])


def test_a_judge_takes_its_own_keys() -> None:
    # Data that another judge curates: what a judge selects by, it determines.
    data = [ANY_DATA, "data.select_by=[aesthetic]"]
    words = ["grid=reward_specific", "model=sd35_medium", *data, "task=aesthetic"]
    usual, changed = (
        expand([*words, *more, "method=sft"]).cells[-1]
        for more in ([], ["judge.clipscore.weights=/w"])
    )
    assert usual.judges["clipscore"] == ClipScoreConfig()
    assert changed.judges["clipscore"] == ClipScoreConfig(weights="/w")
    # Another judge judges the same images: only its own scores are others.
    suites = [cell.suites["drawbench"] for cell in (usual, changed)]
    assert addresses.training(usual) == addresses.training(changed)
    for judge, is_same in (("aesthetic", True), ("clipscore", False)):
        first, second = (
            addresses.scores(cell, cell.steps[-1], replace(suite, prompts=__file__), judge).address
            for cell, suite in zip((usual, changed), suites, strict=True)
        )
        assert (first == second) is is_same


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "judge.clipscore.wights=/w",
            "no key 'judge.clipscore.wights' here; did you mean 'judge.clipscore.weights'",
        ),
        ("judge.clipscore.batch_size=0", "must be at least 1"),
        ("judge.clipscor.weights=/w", "here; did you mean 'judge.clip"),
    ],
)
def test_what_a_judge_does_not_take_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(["grid=reward_specific", "model=sd35_medium", ANY_DATA, word])


def test_an_exact_judge_takes_no_weights() -> None:
    with pytest.raises(ConfigError, match=r"there is no key 'judge\.geneval\.detector'"):
        expand(["grid=main_table", "judge.geneval.detector=/w"])


def test_a_method_is_not_made_another_under_its_name() -> None:
    words = [
        "grid=reward_specific",
        "method=sft",
        "method._target_=baselines.soar_config.SoarConfig",
    ]
    with pytest.raises(ConfigError, match=r"method\._target_=.*: a method's class goes by its nam"):
        expand(words)


def test_a_reward_of_a_package_that_is_broken_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, line in (
        ("lacking", "import no_such_library"),
        ("failing", "from os import nothing"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(line)
        (tmp_path / name / "rewards.py").write_text("def f(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["grid=reward_specific", "method=flow_grpo", ANY_DATA]
    for name, message in (
        ("lacking.rewards", "cannot be imported .*No module named 'no_such_library'"),
        ("failing.rewards", "cannot be imported .*cannot import name 'nothing'"),
    ):
        with pytest.raises(ConfigError, match=f"'{name}' {message}"):
            expand([*words, f"reward={name}.f"])
