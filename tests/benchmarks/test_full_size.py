"""One update of an architecture with random weights, on the laboratory's, which is small."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from soarbench.benchmarks.full_size import (
    RandomRows,
    planned_bytes,
    random_transformer,
    require_memory,
)
from soarbench.cli.app import main
from soarbench.cli.bench import DEFAULTS, full_size
from soarbench.common.errors import UserError
from soarbench.planning.demand import PlanOptions, read_request

LAB = ["model=lab", "model.resolution=64"]


@pytest.mark.slow
def test_an_update_is_taken_and_its_memory_is_near_the_plan() -> None:
    stream = io.StringIO()
    assert full_size([*LAB, "method.num_aux_points=1"], console=Console(file=stream)) == 0
    said = stream.getvalue()
    for text in ("One update of lab with random weights", "LoRA of rank 32", "forward equivalents"):
        assert text in " ".join(said.split())
    # Main term, unconditional branch of the rollout, one auxiliary point: 3 + 1 + 3.
    (line,) = [line for line in said.splitlines() if "forward equivalents" in line]
    assert line.split("│")[2].strip() == "7"


def test_the_default_is_soar_with_an_adapter_of_the_published_model() -> None:
    (demand,) = read_request(PlanOptions(), DEFAULTS).demands.values()
    assert type(demand.method).__name__ == "SoarConfig"
    assert demand.model.path == "stabilityai/stable-diffusion-3.5-medium"
    assert demand.lora is not None
    assert (demand.training.batch_size, demand.model.dtype) == (1, "float32")


def test_rows_have_the_shapes_of_the_model() -> None:
    (demand,) = read_request(PlanOptions(), DEFAULTS).demands.values()
    architecture = demand.model.architecture()
    row = RandomRows(demand, architecture)[0]
    assert row["x0"].shape == (16, 16, 16)
    assert row["condition"]["prompt_embeds"].shape == (77, 4096)
    assert row["condition"]["pooled_prompt_embeds"].shape == (2048,)


def test_random_weights_are_seeded_and_of_the_asked_type() -> None:
    (demand,) = read_request(PlanOptions(), ["model=lab", "method=sft"]).demands.values()
    architecture = demand.model.architecture()
    first, second = (random_transformer(architecture, torch.bfloat16) for _ in range(2))
    assert {parameter.dtype for parameter in first.parameters()} == {torch.bfloat16}
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.get_default_dtype() == torch.float32


def test_what_does_not_fit_is_refused_before_anything_is_built() -> None:
    with pytest.raises(UserError, match=r"needs 1000000\.0 GB and cpu has .* free: use model\.dty"):
        require_memory(1e15, torch.device("cpu"))
    require_memory(1.0, torch.device("cpu"))


@pytest.mark.slow
def test_full_precision_of_the_published_model_takes_ten_gigabytes() -> None:
    (demand,) = read_request(PlanOptions(), DEFAULTS).demands.values()
    # Measured once with this command: 10.27 GB.
    assert planned_bytes(demand) == pytest.approx(10.27e9, rel=0.15)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=sft,soar"], "method=sft,soar: one update of one method; name one"),
        (["device=cuda:9"], "device=cuda:9: this machine has"),
        (["model=lab", "model.resolution=4096"], "model.resolution=4096: this model draws"),
    ],
)
def test_bad_requests_end_with_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "full_size", *words]) == 2
    assert message in capsys.readouterr().err
