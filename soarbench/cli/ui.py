"""``python -m soarbench ui``: the MLflow store in a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from soarbench.common.progress import print_line
from soarbench.config.compose import run_settings
from soarbench.config.keys import Options


@dataclass(frozen=True, kw_only=True)
class UiOptions(Options):
    """What ``ui`` takes beside the settings of a run.

    Attributes:
        port: Of the web page.
    """

    port: int = 5000

    def __post_init__(self) -> None:
        if not 0 < self.port < 2**16:
            raise ValueError(f"port={self.port}: must be in 1..{2**16 - 1}")


def ui(options: UiOptions, words: Sequence[str], *, console: Console) -> int:
    """Say where the views are, and serve them until interrupted."""
    from soarbench.tracking.ui import ui_command, ui_views

    settings = run_settings(words)
    output_dir = Path(settings.output_dir).expanduser()
    command = ui_command(settings.tracking, output_dir, options.port)
    for about, address in ui_views(settings.tracking, output_dir, options.port).items():
        print_line(console, f"{about}\n  {address}")
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        # The only way to end it, so that it is no failure.
        return 0
