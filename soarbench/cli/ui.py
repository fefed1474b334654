"""``python -m soarbench ui``: the MLflow store in a browser."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from soarbench.cli.exported import refuse_exports
from soarbench.common.errors import UserError
from soarbench.common.progress import print_line
from soarbench.config.compose import folder_settings
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
    from soarbench.tracking.ui import served_by, ui_command, ui_environment, ui_views

    settings = folder_settings(words)
    output_dir, tracking = Path(settings.output_dir).expanduser(), settings.tracking
    if not tracking.enabled:
        raise UserError("tracking=none has no page: leave it out, or name a tracking.uri")
    if tracking.uri is None:
        refuse_exports(output_dir)
    command = ui_command(tracking, output_dir, options.port)
    is_served = served_by(tracking) is not None
    if not is_served:
        # First: of a port that is taken, the links would show somebody else's page.
        _refuse_taken(options.port)
    for about, address in ui_views(tracking, output_dir, options.port).items():
        print_line(console, f"{about}\n  {address}")
    return 0 if is_served else _serve(command, ui_environment())


def _refuse_taken(port: int) -> None:
    """``UserError`` where a page cannot be served at a port."""
    fault = _fault(port)
    if fault is not None:
        free = next((other for other in range(5001, 5100) if _fault(other) is None), 8080)
        raise UserError(f"port={port}: {fault}; choose another, e.g. port={free}")


def _fault(port: int) -> str | None:
    """What keeps a port from being listened at; None where nothing does."""
    with socket.socket() as other:
        # Some systems let two programs listen, of which one is never asked.
        if other.connect_ex(("127.0.0.1", port)) == 0:
            return "another program listens there"
    with socket.socket() as listener:
        # Of a server that has just ended the port stays taken for a minute otherwise.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError:
            return "is reserved for the system"
        except OSError as error:
            return f"cannot be listened at ({error.strerror})"
    return None


def _serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run MLflow's server until it ends, or this process is told to."""
    # In a session of its own, its dozen processes end together, however this one is ended.
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The only way to end it, so that it is no failure.
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
