"""Memory and time before the start: counted, compared with measurements, refused in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from baselines.awm_config import AwmConfig
from baselines.config import EmaConfig, LoraConfig, OptimConfig, TrainingConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from soarbench.cli.app import main
from soarbench.cli.plan import plan, plan_table
from soarbench.cli.words import read
from soarbench.common.errors import UserError
from soarbench.lab.config import LabModelConfig
from soarbench.models.pipeline_architecture import num_stored
from soarbench.models.sd3.config import Sd3Config
from soarbench.planning.demand import PlanOptions, gpus, read_request
from soarbench.planning.fake_transformer import LiveBytes, MetaModel
from soarbench.planning.memory_and_time import (
    GB,
    Demand,
    Parameters,
    Passes,
    gigabytes,
    memory_rows,
    other_phases,
    time_plan,
)
from soarbench.planning.planner import Planner, alternatives, choices
from tests.peaks import CASES, MODEL, ROWS, SMALL

ROOT = Path(__file__).parents[2]
ANY_DATA = "data=lab_general"
EIGHT_BIT = ["optim.optimizer=adamw_8bit"]
MEDIUM = ["model=sd35_medium", ANY_DATA]
#: Without what the published recipe saves memory by.
PLAIN = [*MEDIUM, "method=sft", "training.gradient_checkpointing=false"]


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    """Bytes that small models really took at their peak."""
    # Otherwise glibc keeps freed blocks, and the peak tells of its habits.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.peaks"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_activations_are_within_15_percent_of_measured_peaks(
    case: str, measured: dict[str, float]
) -> None:
    meta = MetaModel(SMALL, MODEL, *CASES[case])
    estimate = meta.passes(ROWS).later - 4 * meta.parameters().trained
    assert estimate == pytest.approx(measured[case], rel=0.15)


@pytest.mark.slow
def test_few_layers_tell_of_many() -> None:
    larger = SMALL.with_layers((4, 3))
    meta = MetaModel(larger, MODEL, *CASES["adapter checkpointed"])
    whole = meta._measured(larger, lambda model: meta._peaks(model, ROWS))
    passes = meta.passes(ROWS)
    assert passes.first == pytest.approx(whole[:2].max(), rel=0.01)
    assert passes.later == pytest.approx(whole[2:].max(), rel=0.01)
    flops = meta._measured(larger, meta._forward)[0]
    assert meta.forward_flops() == pytest.approx(flops, rel=1e-6)


@pytest.mark.slow
def test_sd35_medium_has_its_published_size() -> None:
    model = read_request(PlanOptions(), [*MEDIUM, "method=sft"]).demands["sft"].model
    loop = TrainingConfig(steps=1, batch_size=1)
    sizes = MetaModel(model.architecture(), model, loop).parameters()
    assert sizes.trained == sizes.total
    assert 2.2e9 < sizes.total < 2.6e9
    # The published bf16 file of 4.94 GB holds the position embedding too.
    assert 2 * (sizes.total + sizes.buffers) == pytest.approx(4.94e9, rel=0.002)


def test_live_bytes_rise_and_fall() -> None:
    known = torch.empty(1000)
    live = LiveBytes([known])
    with live:
        made = known + 1
        assert live.now == 4000
        view = made[:10]
        assert live.now == 4000
        del made, view
        assert live.now == 0
    assert live.peak == 4000


def demand(**changes: object) -> Demand:
    """SOAR of all weights, 32 rows on one GPU."""
    loop = TrainingConfig(steps=9, batch_size=32, micro_batch_size=4, mixed_precision="bf16")
    model = dataclasses.replace(MODEL, dtype="bfloat16")
    made = Demand(model=model, method=SoarConfig(), optim=OptimConfig(), training=loop)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


SIZES = Parameters(total=1000, trained=1000, buffers=100)
NOTHING = Passes(first=0.0, later=0.0)


def test_a_full_fine_tune_holds_16_bytes_a_parameter() -> None:
    rows = memory_rows(demand(), SMALL, SIZES, NOTHING)
    held = rows["weights"] + rows["gradients"] + rows["optimiser"]
    assert held == 16 * 1000 + 4 * 100
    assert "averaged weights" not in rows
    assert "communication" not in rows
    assert memory_rows(demand(num_processes=2), SMALL, SIZES, NOTHING)["communication"] == 4000
    eight_bit = demand(optim=OptimConfig(optimizer="adamw_8bit"))
    assert 2000 < memory_rows(eight_bit, SMALL, SIZES, NOTHING)["optimiser"] < 2100


def test_an_adapter_keeps_the_rest_in_the_types_of_the_model() -> None:
    sizes = Parameters(total=1010, trained=10, buffers=100)
    rows = memory_rows(demand(lora=LoraConfig()), SMALL, sizes, Passes(first=9.0, later=47.0))
    assert rows["weights"] == 2 * 1000 + 4 * 10 + 2 * 100
    assert (rows["gradients"], rows["optimiser"], rows["activations"]) == (40, 80, 7.0)


def test_an_old_policy_is_one_more_copy_of_what_is_trained() -> None:
    words = ("ddp", "fsdp2")
    rows = [
        memory_rows(demand(method=method, num_processes=4, parallelism=word), SMALL, SIZES, NOTHING)
        for method in (DiffusionNftConfig(), AwmConfig(ema_kl_coeff=0.0))
        for word in words
    ]
    assert [one.get("old policy") for one in rows] == [4000.0, 1000.0, None, None]
    assert "reference model" in rows[0]


def test_shards_divide_what_is_held_and_gather_what_is_used() -> None:
    sizes = Parameters(total=1200, trained=1200, buffers=100)
    rows = {
        word: memory_rows(
            demand(num_processes=4, parallelism=word, ema=EmaConfig()), SMALL, sizes, NOTHING
        )
        for word in ("ddp", "fsdp2", "zero2")
    }
    for word, held in (("ddp", 1200), ("fsdp2", 300), ("zero2", 300)):
        assert rows[word]["weights"] == 4 * held + 4 * 100
        assert rows[word]["gradients"] == rows[word]["averaged weights"] == 4 * held
        assert rows[word]["optimiser"] == 8 * held
    # SMALL has 5 layers: two of them are gathered at a time.
    assert rows["fsdp2"]["communication"] == pytest.approx(0.4 * (4 + 4) * 1200)
    assert rows["zero2"]["communication"] == pytest.approx((1 + 0.4) * 4 * 1200)
    assert [gigabytes(rows[word]) for word in ("ddp", "zero2", "fsdp2")] == sorted(
        map(gigabytes, rows.values()), reverse=True
    )


def test_several_gpus_are_offered_shards() -> None:
    found = dict(alternatives(demand(num_processes=8)))
    assert found["launcher.parallelism=fsdp2"].parallelism == "fsdp2"
    sharded = [words for words, _ in alternatives(demand(num_processes=8, parallelism="fsdp2"))]
    assert not any("8bit" in words or "parallelism" in words for words in sharded)


def test_an_update_costs_what_the_methods_say() -> None:
    demands = read_request(PlanOptions(), MEDIUM).demands
    costs = {name: one.forward_equivalents for name, one in demands.items()}
    assert costs == {"sft": 96.0, "soar": 704.0, "flow_grpo": 576 * 2 * (10 + 4 * 9)}
    assert [one.model_rows for one in demands.values()] == [4, 4, 18]
    assert [one.method.forwards_with_gradient() for one in demands.values()] == [1, 7, 18]


def test_time_is_operations_over_the_share_of_the_peak() -> None:
    gpu = gpus()["h100-80gb"]
    numbers = {"forward_flops": 1e12, "utilisation": 0.5}
    assert time_plan(demand(), gpu, **numbers).seconds == pytest.approx(704 / (989 * 0.5))
    both = time_plan(demand(num_processes=2), gpu, **numbers)
    assert both.seconds == pytest.approx(352 / (989 * 0.5))
    loop = dataclasses.replace(demand().training, gradient_checkpointing=True, mixed_precision="no")
    slow = time_plan(demand(training=loop), gpu, **numbers)
    # Checkpointing repeats 7 forwards of each of 32 rows.
    assert slow.seconds == pytest.approx((704 + 224) / (67 * 0.5))


def test_alternatives_change_one_thing_or_say_all_that_they_change() -> None:
    words = [text for text, _ in alternatives(demand())]
    assert words == [
        "training.gradient_checkpointing=true",
        "training.micro_batch_size=2",
        "training.micro_batch_size=1",
        "training.micro_batch_size=1 training.gradient_checkpointing=true",
        "optim.optimizer=adamw_8bit training.gradient_checkpointing=true",
        "lora={rank:32,alpha:64} training.gradient_checkpointing=true",
    ]
    for text, changed in alternatives(demand()):
        wanted = read_request(PlanOptions(), [*PLAIN, *text.split()]).demands["sft"]
        assert (wanted.lora is None) == (changed.lora is None)
        assert wanted.optim.optimizer == changed.optim.optimizer
        assert wanted.training.gradient_checkpointing == changed.training.gradient_checkpointing


class Counted(Planner):
    """Without a model: 10 GB of activations a row, and a quarter with checkpointing."""

    def memory(self, demand: Demand) -> dict[str, float]:
        share = 0.25 if demand.training.gradient_checkpointing else 1.0
        architecture = demand.model.architecture()
        sizes = Parameters(total=10**9, trained=10**9, buffers=0)
        bytes_ = 10 * GB * demand.model_rows * share
        passes = Passes(first=bytes_ + 4 * GB, later=bytes_ + 4 * GB)
        return memory_rows(demand, architecture, sizes, passes)


def test_what_does_not_fit_is_told_with_what_would() -> None:
    request = read_request(PlanOptions(gpu="a100-80gb"), PLAIN)
    found = Counted().remedies(request.demands["sft"], 80.0)
    assert found == [
        "training.gradient_checkpointing=true (33 GB)",
        "training.micro_batch_size=2 (43 GB)",
        "training.micro_batch_size=1 (33 GB)",
    ]


@pytest.mark.slow
def test_the_command_prints_a_table_and_refuses_what_cannot_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    assert plan(PlanOptions(gpu="l4-24gb"), ["method=sft", "budget=quick"], console=console) == 0
    for text in ("peak, GB", "forward equivalents an update", "40 updates", "lab at 64 px"):
        assert text in stream.getvalue()
    big = ["method=sft", "training.batch_size=8000", "training.micro_batch_size=8000"]
    assert main(["plan", *big, "gpu=l4-24gb"]) == 2
    error = capsys.readouterr().err
    assert "method=sft needs" in error
    assert "l4-24gb has 24: what would fit: training." in error
    # The smallest one that it fits on.
    assert error.endswith(", gpu=a100-40gb\n")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpu=h100"], "gpu='h100' is not known: did you mean 'h100-80gb'"),
        (["utilisation=2"], "utilisation=2.0: must be a share"),
        (["utilisation=fast"], "utilisation='fast' must be a number"),
        (["method=base"], "method=base is not trained; choose one of sft, soar, flow_grpo"),
        (["training.batchsize=1"], "did you mean 'training.batch_size'"),
        (["launcher.num_processes=5", "method=sft"], "must be a multiple of 5"),
        (["launcher.num_processes=0"], "launcher.num_processes=0: must be at least 1"),
        (["launcher.parallelism=fsdp2"], "one process has nobody to share with; set launcher.num"),
        (["launcher.parallelism=fsdp"], "launcher.parallelism"),
        (
            ["launcher.parallelism=zero2", "launcher.num_processes=2", *EIGHT_BIT],
            "adamw_8bit: bitsandbytes takes no weights in shards (launcher.parallelism=zero2)",
        ),
        (["optim.optimizer=lion"], "optim.optimizer='lion' must be one of adamw, adamw_8bit"),
    ],
)
def test_bad_requests_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_request(*read(PlanOptions, words))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_hub_id_and_a_directory_without_a_transformer_are_named(tmp_path: Path) -> None:
    unknown = Sd3Config(name="x", path="org/name", resolution=64)
    with pytest.raises(UserError, match=r"model\.path=org/name: its sizes are not known"):
        unknown.architecture()
    with pytest.raises(UserError, match=r"no model_index\.json there"):
        dataclasses.replace(unknown, path=str(tmp_path)).architecture()


def test_a_rollout_of_more_rows_takes_more_and_is_the_first_to_shrink() -> None:
    words = ["method=flow_grpo", "method.guidance_scale=4.5"]
    words += ["training.batch_size=48", "training.micro_batch_size=2"]
    few, many = (
        read_request(PlanOptions(), [*words, f"method.rollout_batch_size={rows}"]).demands[
            "flow_grpo"
        ]
        for rows in ("null", 48)
    )
    # Guidance doubles them.
    assert (few.rollout_rows, many.rollout_rows, demand().rollout_rows) == (4, 96, 0)
    planner = Planner()
    # Without decoding, which would take more than this model's rollout.
    activations = [
        planner.memory(dataclasses.replace(one, is_judged=False))["activations"]
        for one in (few, many)
    ]
    shapes = many.model.architecture().condition_shapes(many.model.max_sequence_length)
    # At the least what its conditions take.
    assert activations[1] > max(activations[0], 96 * 4 * sum(map(math.prod, shapes.values())))
    assert next(iter(alternatives(many))) == ("method.rollout_batch_size=null", few)


def test_the_laboratory_is_read_from_its_files() -> None:
    lab = LabModelConfig().architecture()
    assert lab.latent_shape(64)[1:] == (64 // lab.vae_scale_factor,) * 2
    assert lab.vae_parameters > 0
    assert num_stored(Path("nowhere")) == 0


def test_the_table_has_a_column_a_method() -> None:
    request = read_request(PlanOptions(), [*MEDIUM, "launcher.num_processes=8"])
    table = plan_table(request, {}, {})
    place = "sd35_medium at 512 px on 8 x h100-80gb"
    assert table.title == f"{place}, grid=reward_specific task=aesthetic"
    # The main table's training is another one: a plan says of which it is.
    main = read_request(PlanOptions(), ["grid=main_table", "method=sft", *MEDIUM])
    assert (main.grid, main.task) == ("main_table", "general")
    assert main.steps["sft"] == 10_000
    assert gigabytes({"a": 5e8, "b": 5e8}) == 1.0


def test_one_backward_alone_frees_activations_as_it_makes_gradients() -> None:
    passes = Passes(first=5000.0, later=9000.0)
    alone = demand(method=SftConfig(), training=TrainingConfig(steps=9, batch_size=4))
    assert memory_rows(alone, SMALL, SIZES, passes)["activations"] == 1000
    assert memory_rows(demand(), SMALL, SIZES, passes)["activations"] == 5000
    # The first update of all has no moments beside its activations: 1000 of 8000 are not seen.
    first = dataclasses.replace(alone.training, steps=1)
    one = memory_rows(dataclasses.replace(alone, training=first), SMALL, SIZES, passes)
    assert "activations" not in one


def test_memory_chooses_what_is_left_to_it() -> None:
    soar = read_request(PlanOptions(), [*MEDIUM, "method=soar"]).demands["soar"]
    # 20 GB whatever is chosen, 40 of activations a point, or 10 with checkpointing.
    for memory_gb, is_checkpointed, points in ((400, False, 6), (160, False, 3), (45, True, 2)):
        chosen = Counted().chosen(soar, memory_gb)
        assert chosen.training.gradient_checkpointing is is_checkpointed
        assert isinstance(chosen.method, SoarConfig)
        assert chosen.method.aux_chunk == points
        assert choices(soar, chosen) == {
            "training.gradient_checkpointing": is_checkpointed,
            "method.aux_chunk": points,
        }
    assert Counted().chosen(demand(), 1.0) == demand()


def test_other_phases_hold_what_they_need() -> None:
    asked = demand(judges_gb=2.0, judging_gb=1.0, drawn_rows=32)
    phases = other_phases(asked, SMALL, SIZES, 1e8)
    fixed = 2 * 1100 + 2e9
    assert phases["drawing"] == pytest.approx(1.5e9 + 1.05 * (fixed + 3.2e9))
    assert phases["judging"] == pytest.approx(1.5e9 + 1.05 * (fixed + 1e9))
