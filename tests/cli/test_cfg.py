"""``--cfg`` prints what a command would be called with."""

from __future__ import annotations

import pytest
import yaml

from soarbench.cli.app import main
from soarbench.common.strict import plain
from soarbench.grid.expand import expand


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, list[dict]]:
    assert main([*words, "--cfg"]) == 0
    text = capsys.readouterr().out
    return text, list(yaml.safe_load_all(text))


def test_a_run_prints_the_settings_that_its_cells_have(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["grid=reward_specific", "method.aux_weight=0.5", "optim.lr=1"]
    assert main(["run", *words, "--cfg"]) == 2
    capsys.readouterr()
    words[-1] = "optim.learning_rate=1e-4"
    text, [settings] = printed(capsys, "run", *words)
    # The first of the grid's methods that has the key.
    assert "grid=reward_specific method=soar task=aesthetic; the others are sft/aesthetic" in text
    cell = next(cell for cell in expand(words).cells if cell.method_name == "soar")
    for key in ("method", "optim", "training", "sampling"):
        assert settings[key] == plain(getattr(cell, key)), key
    assert settings["method"]["aux_weight"] == 0.5
    text, [settings] = printed(capsys, "run", words[0], "method.aux_weight=0.25,1.0")
    assert "method=soar_aux_weight_0.25 task=aesthetic; the others are sft/aesthetic" in text
    assert settings["method"]["aux_weight"] == 0.25


def test_a_command_prints_its_own_options_and_the_settings_that_it_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, [own, settings] = printed(capsys, "evaluate", "suite=geneval", "sampling.guidance_scale=2")
    assert own["suite"] == "geneval"
    # Of the model that the suite's judges are for.
    assert settings["model"]["name"] == "sd35_medium"
    assert settings["sampling"]["guidance_scale"] == 2
    assert "optim" not in settings
    _, [own, settings] = printed(capsys, "data", "check", "data.path=rows.jsonl", "near=true")
    assert own["near"] is True
    assert settings["data"]["path"] == "rows.jsonl"
    _, [_, settings] = printed(capsys, "score", "suite=drawbench", "images=x")
    _, [_, others] = printed(capsys, "score", "suite=lab_drawbench", "images=x")
    # As judges are where the suite's are from, and not the laboratory's.
    assert settings["judge"]["clipscore"]["weights"] == "openai/clip-vit-large-patch14"
    assert others["judge"]["clipscore"] != settings["judge"]["clipscore"]
    _, [settings] = printed(capsys, "bench", "full_size", "lora=null")
    assert (settings["model"]["name"], settings["model"]["resolution"]) == ("sd35_medium", 128)
    assert settings["lora"] is None
    text, _ = printed(capsys, "lab", "card")
    assert text == "# this command takes nothing\n"


def test_passwords_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = printed(capsys, "ui", "tracking.uri=postgresql://me:hush@host/db")
    assert "hush" not in text
    assert "postgresql://me:***@host/db" in text
