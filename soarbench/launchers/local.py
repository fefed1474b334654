"""``launcher=local``: one job after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from soarbench.common.errors import reason
from soarbench.jobs.base import Context, Job


class Blocked(RuntimeError):
    """A job whose input could not be made; its cause is what that failed with."""


Outcome = tuple[Job, Exception | None]
"""A job that ended, and what it failed with."""


def run_jobs(jobs: Sequence[Job], context: Context) -> Iterator[Outcome]:
    """Run jobs in order and yield each when it has ended.

    Models and judges stay loaded between jobs that need the same. A job whose input failed is not
    tried; the others are still worth running.

    Args:
        jobs: Each after those that it waits for.
        context: Of this process.
    """
    failed: dict[str, Exception] = {}
    for job in jobs:
        failure: Exception | None = None
        missing = [address for address in job.waits_for if address in failed]
        if missing:
            failure = _blocked(missing[0], failed[missing[0]])
        else:
            try:
                job.run(context)
            # Whatever goes wrong in one job (out of memory, a user's reward, a diverged loss), the
            # reason is recorded with it, and the rest of the grid goes on.
            except Exception as error:  # noqa: BLE001
                failure = error
        if failure is not None:
            failed[job.address] = failure
            context.progress.forget(job.key)
        yield job, failure


def _blocked(address: str, error: Exception) -> Blocked:
    root = error.__cause__ if isinstance(error, Blocked) and error.__cause__ else error
    blocked = Blocked(f"{address} could not be made: {reason(root)}")
    blocked.__cause__ = root
    return blocked
