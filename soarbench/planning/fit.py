"""Whether cells fit on the GPUs that are there, before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from soarbench.config.run import ProcessesConfig
from soarbench.grid.cell import CellConfig
from soarbench.models.base import UnknownArchitecture
from soarbench.planning.demand import judges_gb
from soarbench.planning.memory_and_time import GB, Demand, gigabytes
from soarbench.planning.planner import Planner, refuse

log = logging.getLogger(__name__)


def demand_of(cell: CellConfig, processes: ProcessesConfig) -> Demand:
    """What training a cell asks of each GPU."""
    assert cell.method is not None
    assert cell.optim is not None
    assert cell.training is not None
    judging = {name for suite in cell.suites.values() for name in suite.judges}
    return Demand(
        model=cell.model,
        method=cell.method,
        optim=cell.optim,
        training=cell.training,
        lora=cell.lora,
        ema=cell.ema,
        num_processes=processes.num_processes,
        parallelism=processes.parallelism,
        judges_gb=judges_gb(cell.judges, judging, cell.rewards, processes.num_processes),
    )


def require_fit(
    cells: Sequence[CellConfig], processes: ProcessesConfig, *, name: str, memory: float
) -> None:
    """Say what training needs of each GPU, of ``memory`` bytes, and refuse what cannot fit.

    Raises:
        UserError: Names the method, the memory and the options that would make it fit.
    """
    planner = Planner()
    demands: dict[str, tuple[str, Demand]] = {}
    for cell in cells:
        if cell.training is not None:
            demand = demand_of(cell, processes)
            # Seeds and tasks differ in nothing that takes memory, and counting takes seconds.
            demands.setdefault(repr(demand), (cell.method_name, demand))
    for method, demand in demands.values():
        try:
            needed = gigabytes(planner.memory(demand))
        # Whoever brings another model may know that it fits, where a download is needed to tell.
        except UnknownArchitecture as error:
            log.info("whether training fits is not checked: %s", error)
            return
        log.info("%s needs %.0f GB of the %.0f of %s", method, needed, memory / GB, name)
        if needed > memory / GB:
            refuse(planner, method, demand, name=name, memory_gb=memory / GB)
