"""What of a foreign training script is run beside ours; the script here is our own invention."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from soarbench.common.errors import UserError
from tools.beside_hy_soar import main, update_of

SCRIPT = """
def main():
    for batch in loader:
        with accelerator.accumulate(model):
            read.append("images")
            z_1 = drawn * 2
            loss_total = z_1 + 1
            accelerator.backward(loss_total)
            stepped.append("optimiser")
"""


def test_what_is_timed_begins_at_the_noise_and_ends_with_the_backward() -> None:
    losses: list[int] = []

    class Accelerator:
        backward = staticmethod(losses.append)

    # Neither reading nor the optimiser's step are in it: their names do not even exist.
    exec(update_of(SCRIPT), {"drawn": 3, "accelerator": Accelerator})
    assert losses == [7]


@pytest.mark.parametrize("changed", ["z_1 =", "accelerator.backward(", "accumulate"])
def test_a_script_of_another_form_is_refused(changed: str) -> None:
    with pytest.raises(UserError, match="another form than at HY-SOAR's 59f0e02"):
        update_of(SCRIPT.replace(changed, changed.replace("a", "o").replace("z_1", "noise")))


def test_a_folder_without_their_script_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["race", str(tmp_path), "--only", "race", "model=lab"])
    assert main() == 2
    expected = f"{tmp_path}: no soar/train_soar_sd3_5m.py there; clone HY-SOAR into it\n"
    assert capsys.readouterr().err == expected
