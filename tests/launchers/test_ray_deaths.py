"""What a killed run, or a node that dies while it is asked, leaves to the next one."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("ray", reason="pip install soarbench[ray]")

from soarbench.cli.run import run_whole
from soarbench.common.files import read_json
from soarbench.common.provenance import command_line
from soarbench.grid.expand import expand
from soarbench.launchers import ray_backend
from soarbench.launchers.ray_actors import Facts, NodeHost
from tests.fakes import SMALL
from tests.launchers.benches import quick


class MortalHost(NodeHost):
    """Dies when it is asked for the first time."""

    def look(self, folder: Path, check: Path, mark: str, name: str, code: str) -> Facts:
        death = check.parent / "death"
        if not death.exists():
            death.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().look(folder, check, mark, name, code)


@pytest.mark.slow
def test_a_node_that_dies_while_it_is_asked_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_backend, "NodeHost", MortalHost)
    words = ["grid=reward_specific", "task=aesthetic", "method=[sft]", *SMALL, "device=cpu"]
    words += ["launcher=ray", "tracking=none", "diagnostics=false"]
    words += [f"output_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    grid = expand(words)
    # Of a run that was killed.
    (grid.folder / ".nodes" / "node").mkdir(parents=True)
    console = Console(file=io.StringIO(), width=200)
    assert run_whole(grid, console=console, make_workbench=quick) == 0
    assert (grid.folder / "death").exists()
    assert not (grid.folder / ".nodes").exists()
    commands = {
        str(launch["command"])
        for path in grid.store.root.glob("*/*/artefact.json")
        for launch in read_json(path)["launches"]  # type: ignore[attr-defined]
    }
    assert commands == {command_line()}
