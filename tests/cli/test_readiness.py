"""``doctor grid=NAME`` says what a grid lacks here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from soarbench.cli import readiness
from soarbench.cli.app import main
from soarbench.common.errors import UserError

PART = ("grid=reward_specific", "task=aesthetic", "method=sft")


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(readiness, "found_gpus", lambda: [])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def examined(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str], str]:
    code = main(["doctor", *words])
    lines = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in lines if "│" in line]
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("└")) + 1 :]
    return code, {what: state for what, state, _ in rows}, "\n".join(below)


def test_the_laboratory_can_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, below = examined(capsys, *PART)
    assert code == 0
    assert {rows[name] for name in ("judge aesthetic", "prompts", "data", "disk")} == {"ready"}
    assert rows["GPU"] == "none"
    assert below == f"can run: python -m soarbench run {' '.join(PART)}"


def test_everything_that_is_missing_comes_with_what_gets_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    code, rows, below = examined(capsys, *PART, "model=sd35_medium")
    assert code == 1
    absent = {name for name, state in rows.items() if state == "missing"}
    judges = {"judge aesthetic", "judge clipscore"}
    assert absent == {*judges, "prompts", "data", "disk", "weights of sd35_medium"}
    for remedy in (
        "to get judge clipscore: python -m soarbench fetch clipscore",
        "suites.drawbench.prompts=FILE",
        "data.path=FILE",
        "hf download stabilityai/stable-diffusion-3.5-medium --revision",
        "choose another disk by output_dir=DIR",
        "licence: https://huggingface.co/openai/clip-vit-large-patch14",
    ):
        assert remedy in below
    assert below.splitlines()[-1].startswith("6 to do before python -m soarbench run")


def test_a_set_of_the_hub_is_not_ready_before_it_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, rows, below = examined(capsys, *PART, "data=dalle3")
    assert (code, rows["data"]) == (1, "comes when used")
    command = "hf download --repo-type dataset OpenDatasets/dalle-3-dataset --revision "
    assert f"to get OpenDatasets/dalle-3-dataset: {command}" in below
    assert examined(capsys, *PART, "data=dalle3", "data.streaming=true")[0] == 0
    commit = below.partition("--revision ")[2].split()[0]
    (tmp_path / "datasets--OpenDatasets--dalle-3-dataset" / "snapshots" / commit).mkdir(
        parents=True
    )
    code, rows, _ = examined(capsys, *PART, "data=dalle3")
    assert (code, rows["data"]) == (0, "begun or ready")


def test_a_dry_run_says_what_is_not_here_and_whose_its_estimates_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for model, is_own in (("sd35_medium", True), ("z_image", False)):
        assert main(["run", *PART, f"model={model}", "--dry-run"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"the weights are not here; to get {model}: hf download" in text
        assert ("they are of sd35_medium: plan in place of run" in text) is not is_own


def test_weights_are_here_when_all_parts_of_them_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A run fetches the index first, so that it lies there alone after an interruption."""
    words = ("run", *PART, "model=z_image", "--dry-run")
    snapshot = tmp_path / "models--Tongyi-MAI--Z-Image" / "snapshots" / "abc"
    parts = {"transformer": ["diffusers", "Z"], "vae": ["diffusers", "V"], "scheduler": ["d", "S"]}
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    index = {"_class_name": "ZImagePipeline", **parts}
    (snapshot / "model_index.json").write_text(json.dumps(index))
    for part, name in (
        ("transformer", "x-1.safetensors"), ("transformer", "x-2.safetensors"),
        ("vae", "x.safetensors"), ("scheduler", "scheduler_config.json"),
    ):  # fmt: skip
        assert main([*words]) == 0
        assert "the weights are not here" in " ".join(capsys.readouterr().out.split())
        (snapshot / part).mkdir(exist_ok=True)
        (snapshot / part / name).write_text("{}")
        weights = {"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}
        (snapshot / "transformer" / "x.safetensors.index.json").write_text(json.dumps(weights))
    assert main([*words]) == 0
    assert "the weights are not here" not in " ".join(capsys.readouterr().out.split())


def test_a_gpu_that_is_too_small_is_said_with_what_would_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_cells: object, _processes: object, *, name: str, memory: float) -> None:
        raise UserError(f"needs more than the {memory} of {name}")

    monkeypatch.setattr(readiness, "found_gpus", lambda: [("Tiny", 2**20), ("Large", 2**40)])
    # Counting takes a minute where nothing fits, and has tests of its own.
    monkeypatch.setattr(readiness, "require_fit", refused)
    code, rows, below = examined(capsys, *PART)
    assert (code, rows["GPU memory"]) == (1, "missing")
    assert f"needs more than the {2**20} of Tiny" in below


@pytest.mark.parametrize(
    ("answer", "gpus"),
    [
        ("NVIDIA H100, 81559\nNVIDIA H100, 81559\n", [("NVIDIA H100", 81559 * 2**20)] * 2),
        ("NVIDIA-SMI has failed because it couldn't communicate\n", []),
    ],
)
def test_gpus_are_read_from_nvidias_tool(
    answer: str, gpus: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{answer}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert readiness.found_gpus() == gpus
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert readiness.found_gpus() == []


def test_settings_need_a_grid_and_no_judges_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "geneval", "grid=tuning"]) == 2
    assert "name judges, or a grid" in capsys.readouterr().err
    assert main(["doctor", "budget=quick"]) == 2
    assert "name a grid: grid=NAME" in capsys.readouterr().err
