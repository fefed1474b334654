"""The job that comes before all others: it loads and tries what they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from soarbench.common.progress import Key
from soarbench.config.run import RatesConfig
from soarbench.grid.addresses import Source
from soarbench.jobs.base import Context, Job, Needs
from soarbench.store.artefact import Store

#: Names loading and trying in progress.
START: Key = ("", "start")


@dataclass(frozen=True, kw_only=True)
class Prepare(Job):
    """Makes no artefact, but leaves encoded prompts and images in the cache.

    Attributes:
        jobs: What comes after it.
    """

    kind: ClassVar[str] = "start"
    jobs: tuple[Job, ...]

    @property
    def source(self) -> Source:
        """No artefact."""
        return Source(address="", content={}, inputs=())

    def needs(self) -> Needs:
        """A GPU if anything that follows needs one."""
        return Needs(gpus=int(any(job.needs().gpus or job.needs().gpu_gb for job in self.jobs)))

    @override
    def is_done(self, store: Store) -> bool:
        """Never: who runs jobs tries first."""
        return False

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        return rates.start_seconds

    def run(self, context: Context) -> None:
        """Try; ``UserError`` where something cannot be used."""
        with context.progress.stage(START, "loading models and judges, curating data", 1):
            context.workbench.prepare(self.jobs)
