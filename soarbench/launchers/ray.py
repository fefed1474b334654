"""``launcher=ray``: the GPUs and cores of this machine, or of a cluster."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.common.errors import UserError
from soarbench.common.progress import print_line
from soarbench.config.run import LauncherConfig
from soarbench.launchers.backend import Backend
from soarbench.launchers.base import Launch, Launcher
from soarbench.launchers.pool import Pool


@dataclass(frozen=True, kw_only=True)
class RayConfig(LauncherConfig):
    """Ray, on this machine or on a cluster whose nodes share the output directory.

    Attributes:
        address: Of a cluster that is there: ``auto`` on one of its nodes, ``host:port``, or
            ``ray://host:port`` from outside. Null starts Ray on this machine, for this run.
        gpus_per_node: GPUs of a node that are used; null uses all.
    """

    kind: ClassVar[str] = "ray"

    address: str | None = None
    gpus_per_node: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_node is not None and self.gpus_per_node < 1:
            raise ValueError(f"launcher.gpus_per_node={self.gpus_per_node}: must be at least 1")
        self.host_and_port()

    def host_and_port(self) -> tuple[str, int] | None:
        """Of an address that names them."""
        address = self.address
        if address is None or address == "auto":
            return None
        try:
            parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or parts.scheme not in ("", "ray"):
            raise ValueError(
                f"launcher.address={address}: must be auto, host:port or ray://host:port; null "
                "starts Ray on this machine"
            )
        return host, port

    @override
    def build(self) -> Launcher:
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "launcher=ray: Ray is not installed; run 'pip install soarbench[ray]', or use "
                "launcher=local"
            )
        return Pool(self, functools.partial(opened, self))


@contextlib.contextmanager
def opened(config: RayConfig, launch: Launch) -> Iterator[Backend]:
    """The nodes of a cluster, when all have shown that they can do the work (``UserError``)."""
    from soarbench.launchers.ray_backend import Actors
    from soarbench.launchers.ray_cluster import connected

    device = launch.grid.settings.device
    if device not in ("auto", "cuda", "cpu"):
        raise UserError(f"device={device}: with launcher=ray a job is given its GPU; use auto")
    with (
        connected(config.address, config.host_and_port(), has_gpus=device != "cpu"),
        Actors(launch.grid, launch.make_workbench, gpus_per_node=config.gpus_per_node) as actors,
    ):
        print_line(launch.progress.console, actors.summary())
        yield actors
