"""Waits until all nodes of a SLURM job have joined Ray.

``python -m soarbench.launchers.slurm_nodes ADDRESS NODES MINUTES LOGS`` is called by the batch
script before the run, and ends with 2 where some do not join in time.
"""

from __future__ import annotations

import logging
import socket
import sys
import time

import ray

from soarbench.common.errors import UserError

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_CONNECT = 5.0


def wait_for_nodes(address: str, num_nodes: int, minutes: float, logs: str) -> None:
    """Return when Ray has so many nodes; ``UserError`` where it has not in time."""
    end = time.monotonic() + 60.0 * minutes
    while (count := num_alive(address)) < num_nodes:
        if time.monotonic() > end:
            raise UserError(
                f"{count} of {num_nodes} nodes joined Ray at {address} within launcher."
                f"start_minutes={minutes}: see what the others say in {logs}, or give more time"
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def num_alive(address: str) -> int:
    """Nodes that Ray has; none where it does not answer yet."""
    host, _, port = address.rpartition(":")
    try:
        # Asked first, since ray.init() waits for minutes where nobody listens.
        with socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT):
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except OSError:
        return 0
    try:
        return sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    address, count, limit, folder = sys.argv[1:]
    try:
        wait_for_nodes(address, int(count), float(limit), folder)
    except UserError as error:
        sys.stderr.write(f"soarbench: error: {error}\n")
        sys.exit(2)
