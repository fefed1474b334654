"""What is damaged is made again: before jobs start, and by those that find it so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from soarbench.common.errors import Damaged, DamagedFile
from soarbench.common.files import read_record, set_aside, set_record_aside
from soarbench.jobs.base import Job
from soarbench.jobs.graph import maker_of
from soarbench.store.artefact import KINDS, Artefact, Store
from soarbench.store.cell_record import DESCRIPTION, STATUS
from soarbench.store.judged import ScoresFolder
from soarbench.store.training import TrainingFolder

log = logging.getLogger(__name__)


def set_damaged_aside(jobs: Sequence[Job], store: Store, cells: Iterable[Path]) -> list[str]:
    """Move damaged records, and artefacts that lost theirs, out of the way. -> Lines to show.

    Args:
        jobs: Whose artefacts are looked at.
        store: Where they lie.
        cells: Folders of the cells.
    """
    lines = []
    # Logs make no artefact, and lie in the folder of their cell.
    made = (job.address for job in jobs if job.address.partition("/")[0] in KINDS)
    records = [folder / name for folder in cells for name in (DESCRIPTION, STATUS)]
    for address in dict.fromkeys(made):
        artefact = store.artefact(address)
        records.append(ScoresFolder(artefact.root).summary_path)
        if fault := _fault(artefact):
            aside = set_aside(artefact.root, store.root / "damaged" / address)
            lines.append(f"{fault}; set aside as {aside}, and made again")
    for path in records:
        try:
            read_record(path)
        except DamagedFile as error:
            lines.append(f"{error}; set aside as {set_record_aside(path)}")
    return lines


def _fault(artefact: Artefact) -> str:
    """Why nobody can say what made an artefact; empty where its record does, or none is there."""
    try:
        if artefact.record() is not None or not artefact.root.is_dir():
            return ""
    except DamagedFile as error:
        return str(error)
    # A lock is there first, what a launcher chose, and why a job failed before it began.
    early = {artefact.error_path, TrainingFolder(artefact.root).choices_path}
    names = {path for path in artefact.root.iterdir() if not path.name.startswith(".")}
    is_begun = not names <= early
    return f"{artefact.root} has lost its record" if is_begun else ""


def run_repaired(job: Job, run: Callable[[Job], None]) -> None:
    """Run a job; each damaged artefact that it reads is made again once, here and now."""
    repaired: set[str] = set()
    while True:
        try:
            run(job)
        except Damaged as damage:
            maker = maker_of(damage.address, job)
            if maker is None or damage.address in repaired:
                raise
            log.warning("%s; made again", damage)
            repaired.add(damage.address)
            # What that one reads may be damaged, too.
            run_repaired(maker, run)
        else:
            return
