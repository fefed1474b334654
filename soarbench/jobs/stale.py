"""Artefacts that were made by other code than today's, and what is to become of them."""

from __future__ import annotations

from collections.abc import Sequence

from soarbench.common.code import changed
from soarbench.common.errors import UserError
from soarbench.config.run import Stale
from soarbench.jobs.base import Job
from soarbench.store.artefact import Store


def stale_jobs(jobs: Sequence[Job], store: Store) -> list[tuple[Job, list[str]]]:
    """Jobs whose artefact was begun by other code, and the modules that changed."""
    unlike = []
    for job in jobs:
        record = store.artefact(job.address).record()
        if record is not None and (modules := changed(record.code)):
            unlike.append((job, modules))
    return unlike


def stale_lines(unlike: Sequence[tuple[Job, list[str]]]) -> list[str]:
    """One line a kind of artefact and set of changed modules."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for job, modules in unlike:
        groups.setdefault((job.kind, tuple(modules)), []).append(job.address)
    return [
        f"{len(addresses)} results of {kind!r} were made by other code of {', '.join(modules)} "
        f"than today's, e.g. {addresses[0]}"
        for (kind, modules), addresses in groups.items()
    ]


def settle(jobs: Sequence[Job], store: Store, choice: Stale) -> list[str]:
    """Do with stale artefacts as ``stale=`` says.

    Args:
        jobs: Of a grid.
        store: Where their artefacts are.
        choice: ``refuse``, ``warn``, or ``rerun``: remove them and all that was made from them.

    Returns:
        Lines to be shown.

    Raises:
        UserError: There are some, and ``refuse`` was chosen.
    """
    unlike = stale_jobs(jobs, store)
    lines = stale_lines(unlike)
    if not lines:
        return []
    if choice == "refuse":
        raise UserError(
            f"{lines[0]}; stale=rerun makes them again, stale=warn takes them as they are"
        )
    if choice == "rerun":
        gone = {address for job, _ in unlike for address in store.discard(job.address)}
        return [f"{line}; made again" for line in lines] + [f"{len(gone)} artefacts were removed"]
    return [f"{line}; stale=rerun makes them again" for line in lines]
