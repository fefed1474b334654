"""``launcher=local``: one job after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.common.errors import reason
from soarbench.config.run import LauncherConfig
from soarbench.jobs.base import Context, Job
from soarbench.jobs.repair import run_repaired
from soarbench.launchers.base import Launcher, Outcome


class Blocked(RuntimeError):
    """A job whose input could not be made; its cause is what that failed with."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig(LauncherConfig):
    """This process, in the order of the table."""

    kind: ClassVar[str] = "local"

    @override
    def build(self) -> Launcher:
        return Local()


class Local(Launcher):
    """One job after the other."""

    @override
    def run(self, jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
        return run_jobs(jobs, context)


def run_jobs(jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
    """Run jobs, each after those that it waits for; yields each when it has ended.

    Models and judges stay loaded between jobs that need the same. A job whose input failed is not
    tried; the others are still worth running.
    """
    failed: dict[str, Exception] = {}
    for job in jobs:
        failure: Exception | None = None
        missing = next((address for address in job.waits_for if address in failed), None)
        if missing is not None:
            failure = _blocked(missing, failed[missing])
        else:
            try:
                run_repaired(job, context)
            # Whatever goes wrong in one job (out of memory, a user's reward, a diverged loss), the
            # reason is recorded with it, and the rest of the grid goes on.
            except Exception as error:  # noqa: BLE001
                failure = error
        if failure is not None:
            failed[job.address] = failure
            # Or its seconds would stay in what is left of the grid.
            context.progress.forget(job.key)
        yield job, failure


def _blocked(address: str, error: Exception) -> Blocked:
    # Whatever waits, directly or not, names the artefact that broke.
    if isinstance(error, Blocked):
        return error
    blocked = Blocked(f"{address} could not be made: {reason(error)}")
    blocked.__cause__ = error
    return blocked
