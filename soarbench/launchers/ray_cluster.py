"""Joins a Ray cluster, or starts one on this machine, and says in one line why that cannot be."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ray

from soarbench.common.errors import UserError, reason
from soarbench.launchers.local import cores
from soarbench.launchers.worker import environment

#: Of a host that answers at all, and of the service there.
_SECONDS_TO_ANSWER = 8.0
#: Artefacts go through the shared folder; Ray's own store would take a third of the memory.
_STORE_BYTES = 128 * 2**20
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers say themselves which of their node's GPUs they use.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def connected(
    address: str | None, host_and_port: tuple[str, int] | None, *, has_gpus: bool
) -> Iterator[None]:
    """Be connected; what was started for that is ended, and no more.

    ``UserError`` where a cluster does not answer, or is of another version.

    Args:
        address: As Ray takes it; None starts Ray on this machine.
        host_and_port: What an address names.
        has_gpus: Whether those of this machine are used.
    """
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        # By name, not by copy: nodes have the code, and what the user's own packages are is shared.
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(own_paths())}},
    }
    if address is None:
        # "local", since null would join whatever RAY_ADDRESS names.
        options |= {"address": "local", "num_cpus": cores(), "include_dashboard": False}
        options |= {"object_store_memory": _STORE_BYTES} | ({} if has_gpus else {"num_gpus": 0})
    else:
        if host_and_port is not None:
            _require_answer(address, *host_and_port)
        options["address"] = address
    try:
        with environment(_VARIABLES):
            ray.init(**options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise UserError(_refusal(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str, host: str, port: int) -> None:
    """Refuse an address where no Ray is: joining would try for minutes, and end the process."""
    try:
        with socket.create_connection((host, port), timeout=_SECONDS_TO_ANSWER):
            pass
        # Ray's own certificates would be needed to ask more.
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=_SECONDS_TO_ANSWER)
    except (OSError, grpc.FutureTimeoutError) as error:
        raise UserError(_refusal(address, error)) from error


def _refusal(address: str | None, error: Exception) -> str:
    if address is None:
        return f"launcher=ray: Ray cannot be started here: {reason(error)}"
    # Ray lists versions below each other.
    why = " ".join(str(error).split()) or "no answer"
    text = f"launcher.address={address}: no Ray cluster that can be used: {why[:300]}"
    return f"{text}; 'ray status' on a node shows it, launcher.address=null needs none"


def own_paths() -> list[str]:
    """Folders that this process imports from beside its Python's own, the working one first."""
    # ``python -m`` imports from the working folder, which a worker would not.
    folders = [Path.cwd(), *(Path(name).resolve() for name in sys.path if name)]
    own = [path for path in folders if path.is_dir() and not _is_of_python(path)]
    return list(dict.fromkeys(map(str, own)))


def _is_of_python(path: Path) -> bool:
    return any(
        path.is_relative_to(Path(prefix).resolve() / "lib")
        for prefix in (sys.prefix, sys.base_prefix)
    )
