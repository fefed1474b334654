"""Artefacts that were made by other code than today's, and what is to become of them."""

from __future__ import annotations

from collections.abc import Sequence

from soarbench.common.code import changed
from soarbench.common.errors import UserError
from soarbench.config.run import Stale
from soarbench.jobs.base import Job
from soarbench.store.artefact import Store


def settle(jobs: Sequence[Job], store: Store, choice: Stale) -> list[str]:
    """Do with stale artefacts as ``stale=`` says. -> Lines to be shown.

    ``UserError`` where there are some, and ``refuse`` was chosen.
    """
    # Finished cells of other code were reused without a word: one seed of a mean was trained with
    # a loss a hundred times the other's.
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for job in jobs:
        record = store.artefact(job.address).record()
        if record is not None and (modules := changed(record.code)):
            groups.setdefault((job.kind, tuple(modules)), []).append(job.address)
    lines = [
        f"{len(addresses)} results of {kind!r} were made by other code of {', '.join(modules)} "
        f"than today's, e.g. {addresses[0]}"
        for (kind, modules), addresses in groups.items()
    ]
    if lines and choice == "refuse":
        raise UserError(
            f"{lines[0]}; stale=rerun makes them again, stale=warn takes them as they are"
        )
    if lines and choice == "rerun":
        stale = (address for addresses in groups.values() for address in addresses)
        # What was made from them goes, too.
        gone = {address for one in stale for address in store.discard(one)}
        return [f"{line}; made again" for line in lines] + [f"{len(gone)} artefacts were removed"]
    return [f"{line}; stale=rerun makes them again" for line in lines]
