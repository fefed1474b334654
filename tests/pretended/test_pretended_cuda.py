"""What a GPU would run, at the published size, on one that does not exist.

A tensor left on the CPU, types that do not go together and places where the CPU waits for the
device are found here; kernels and their numbers are not. Every case runs in a process that has the
pretended runtime preloaded.
"""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pretended.device import Unavailable, environment, in_process

METHODS = {
    "sft": [],
    "soar": ["method.num_aux_points=1"],
    "flow_grpo": [
        "method.num_inference_steps=2",
        "method.group_size=2",
        "method.updates_per_collection=1",
    ],
}
ADAPTERS = {"full": "null", "lora": "{rank:32,alpha:64}"}
CHECKPOINTING = (True, False)
CASES = list(itertools.product(METHODS, ADAPTERS, CHECKPOINTING))
#: One update, two rows: (a) the sums of loss and metrics, (b) the gradient's norm, and (c) what the
#: Trainer logs. Between its forwards SOAR looks at how many auxiliary points there are, Flow-GRPO at
#: which groups have spread.
WAITS = {
    "sft": {"trainer.py:<dictcomp>": 3, "trainer.py:_get_grad_norm": 1, "post_train": 1},
}
Result = dict[str, object]


def _words(method: str, adapter: str, is_checkpointed: bool) -> list[str]:
    return [
        *("model=sd35_medium", "training.batch_size=2", "training.micro_batch_size=2"),
        *(f"method={method}", f"lora={ADAPTERS[adapter]}", *METHODS[method]),
        f"training.gradient_checkpointing={str(is_checkpointed).lower()}",
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretended")
    try:
        environment(path)
    except Unavailable as error:
        pytest.skip(f"no CUDA device can be pretended: {error}")
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[tuple[str, str, bool], Result]:
    """What every case printed; two processes share the cases, since they take their minute."""
    halves = [CASES[::2], CASES[1::2]]

    def run(cases: list[tuple[str, str, bool]]) -> list[Result]:
        words = [";".join(_words(*case)) for case in cases]
        printed = in_process(folder, "tests.pretended.training", *words)
        return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(run, halves))
    return {
        case: result
        for cases, part in zip(halves, parts, strict=True)
        for case, result in zip(cases, part, strict=True)
    }
