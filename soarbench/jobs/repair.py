"""Jobs that find what they read damaged: it is made again, and they are tried once more."""

from __future__ import annotations

import logging

from soarbench.common.errors import Damaged
from soarbench.jobs.base import Context, Job
from soarbench.jobs.graph import maker_of

log = logging.getLogger(__name__)


def run_repaired(job: Job, context: Context) -> None:
    """Run a job; each damaged artefact that it reads is made again once, here and now."""
    repaired: set[str] = set()
    while True:
        try:
            job.run(context)
        except Damaged as damage:
            maker = maker_of(damage.address, job)
            if maker is None or damage.address in repaired:
                raise
            log.warning("%s; made again", damage)
            repaired.add(damage.address)
            # What that one reads may be damaged, too.
            run_repaired(maker, context)
        else:
            return
