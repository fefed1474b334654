"""What a GPU would run, at the published size, on one that does not exist.

A tensor left on the CPU, types that do not go together and places where the CPU waits for the
device are found here; kernels and their numbers are not. Every case runs in a process that has the
pretended runtime preloaded.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from evaluators.geneval.config import GenEvalConfig
from evaluators.preference.aesthetic import AestheticConfig
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.preference.hpsv21 import HpsConfig
from evaluators.preference.imagereward import ImageRewardConfig
from evaluators.preference.pickscore import PickScoreConfig
from tests.pretended import runtime

# Minutes, in which another process may go on with the other files.
pytestmark = pytest.mark.slow

PAIRS = [
    *("method.num_inference_steps=2", "method.group_size=2"),
    "method.updates_per_collection=1",
]
METHODS = {"sft": [], "soar": ["method.num_aux_points=1"], "flow_grpo": PAIRS}
RIVALS = {
    "awm": [*PAIRS, "method.num_levels=1"],
    "best_of_group": [*PAIRS, "method.keep=1"],
    "diffusion_nft": PAIRS,
    "online_dpo": PAIRS,
}
ADAPTERS = {"full": "null", "lora": "{rank:32,alpha:64}"}
#: ``ALL_LAYERS=1`` in the environment: every method in every combination, with all layers.
HAS_ALL = os.environ.get("ALL_LAYERS") == "1"
#: At the published width with two layers of each kind: layers of a kind are alike.
FEW = () if HAS_ALL else ("few=2",)
CASES = list(itertools.product(METHODS, ADAPTERS, (True, False)))
#: With all layers.
DEEP = ("soar", "full", True)
#: What they add is the old policy, and which rows the model sees.
RIVAL_CASES = [
    ("awm", "lora", False),
    ("best_of_group", "full", False),
    ("diffusion_nft", "full", True),
    ("online_dpo", "lora", True),
]
if HAS_ALL:
    RIVAL_CASES = list(itertools.product(RIVALS, ADAPTERS, (True, False)))
#: A rollout of more rows than are trained at once, and then it is what takes most.
ROLLOUT = (
    "flow_grpo", "lora", True, "training.batch_size=8", "method.rollout_batch_size=8",
)  # fmt: skip
EIGHT_GPUS = ("launcher.num_processes=8", "training.batch_size=16")
#: With how many layers of each kind; of two, FSDP2's plan was 3.6 % off (SOAR, LoRA).
EIGHT = [
    ("sft", "full", "ddp", 2),
    ("sft", "lora", "fsdp2", 3),
]
JUDGES = (
    *(AestheticConfig, ClipScoreConfig, GenEvalConfig),
    *(HpsConfig, ImageRewardConfig, PickScoreConfig),
)
FAULTS = ("device", "type", "wait")
#: Of other families, at their own width and with a few layers of each kind: at full depth plans
#: were within 2.1 % of what was counted. Which method trains them makes no difference to layers.
FAMILIES = {
    "flux2_klein_4b": ("flow_grpo", 4),
    "sana_600m": ("sft", 2),
    "z_image": ("sft", 2),
    "qwen_image": ("sft", 2),
}
#: Once an update, after its last backward: the gradient's norm, and with it the sums of loss and
#: metrics; and what the Trainer logs. What Flow-GRPO's rewards are is asked once a collection.
WAITS = {
    "baselines/loop/trainer.py:_get_grad_norm": 1,
    "baselines/loop/post_train.py:_train": 1,
}
#: In bf16 on compute capability 9.0, where torch prefers cuDNN's; on 8.0 it takes flash attention.
KERNELS = [
    "_fused_adamw_",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_cudnn_attention_backward",
]
Finished = subprocess.CompletedProcess[str]


def _words(method: str, adapter: str, is_checkpointed: bool, *more: str) -> str:
    return ";".join(
        [
            *("model=sd35_medium", "training.batch_size=2", "training.micro_batch_size=2"),
            *(f"method={method}", f"lora={ADAPTERS[adapter]}", *(METHODS | RIVALS)[method], *more),
            f"training.gradient_checkpointing={str(is_checkpointed).lower()}",
        ]
    )


def _of_family(model: str, method: str, few: int) -> str:
    words = ("planned", f"few={few}", "training.batch_size=2", "training.micro_batch_size=2")
    return ";".join([f"model={model}", f"method={method}", *words, *METHODS[method]])


def _on_eight_gpus(method: str, adapter: str, parallelism: str, few: int) -> str:
    more = ("planned", f"few={few}", f"launcher.parallelism={parallelism}", *EIGHT_GPUS)
    return _words(method, adapter, True, *more)


def _training_cases() -> dict[str, Sequence[str]]:
    """By name, what processes of their own run one after the other."""
    return {
        "cases": [_words(*case, "planned", *FEW) for case in CASES],
        "deep": [_words(*DEEP, "planned")],
        "eight": list(itertools.starmap(_on_eight_gpus, EIGHT)),
        "rivals": [_words(*case, "planned", *FEW) for case in RIVAL_CASES],
        "rollout": [_words(*ROLLOUT, "planned", "few=1")],
        "faults": [_words("sft", "lora", True, "few=2", f"fault={name}") for name in FAULTS],
        "families": [_of_family(model, *case) for model, case in FAMILIES.items()],
    }


#: What processes run, two at a time, each of which imports everything once.
SHARED = (
    ("cases", "rivals", "inference"),
    ("deep", "eight", "rollout", "faults", "families", "judges"),
)
if HAS_ALL:
    SHARED = (("cases",), ("rivals",), *SHARED[1:], ("inference",))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Finished]:
    """By the name of what is in it, what each process printed."""
    folder = tmp_path_factory.mktemp("pretended")
    try:
        runtime.build(folder)
    except runtime.Unavailable as error:
        pytest.skip(f"no CUDA device can be pretended: {error}")
    steps = {name: ("training", cases) for name, cases in _training_cases().items()}
    steps |= {name: (name, ("512", "1024")) for name in ("inference", "judges")}
    words = [json.dumps([(name, *steps[name]) for name in names]) for names in SHARED]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda one: runtime.run(folder, one), words))
    return {name: process for names, process in zip(SHARED, ended, strict=True) for name in names}


def _results(finished: Mapping[str, Finished], name: str) -> list[dict[str, Any]]:
    process = finished[name]
    assert process.returncode == 0, process.stderr[-4000:]
    lines = map(json.loads, process.stdout.splitlines())
    return [result for of, result in lines if of == name]


def _is_right(result: Mapping[str, Any]) -> None:
    assert result["waits"] == WAITS
    # Adapters are put on before training begins; from then on nothing unpinned is copied.
    assert result["uploads"].keys() <= {"baselines/loop/weights.py:_add_adapter"}
    assert result["kernels"] == KERNELS
    assert result["planned"] == pytest.approx(result["peak"], rel=0.03)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_update_runs_at_the_published_width(
    finished: Mapping[str, Finished], case: tuple[str, str, bool]
) -> None:
    _is_right(_results(finished, "cases")[CASES.index(case)])


def test_an_update_runs_at_the_published_size(finished: Mapping[str, Finished]) -> None:
    (result,) = _results(finished, "deep")
    _is_right(result)


@pytest.mark.parametrize("model", FAMILIES)
def test_an_update_of_another_family_runs(finished: Mapping[str, Finished], model: str) -> None:
    result = _results(finished, "families")[list(FAMILIES).index(model)]
    assert result["waits"] == WAITS
    assert result["kernels"] == KERNELS
    assert result["planned"] == pytest.approx(result["peak"], rel=0.03)


@pytest.mark.parametrize("case", RIVAL_CASES, ids=str)
def test_an_update_of_a_rival_runs(
    finished: Mapping[str, Finished], case: tuple[str, str, bool]
) -> None:
    _is_right(_results(finished, "rivals")[RIVAL_CASES.index(case)])


def test_a_rollout_of_many_rows_takes_what_is_planned(finished: Mapping[str, Finished]) -> None:
    (result,) = _results(finished, "rollout")
    _is_right(result)


@pytest.mark.parametrize("case", EIGHT, ids=str)
def test_an_update_runs_on_eight_gpus(
    finished: Mapping[str, Finished], case: tuple[str, str, str, int]
) -> None:
    result = _results(finished, "eight")[EIGHT.index(case)]
    # The Trainer also waits for the other processes before it logs.
    logged = {"baselines/loop/post_train.py:_train": 2}
    assert result["waits"] == WAITS | logged
    assert result["planned"] == pytest.approx(result["peak"], rel=0.03)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("device", "FakeTensorDeviceMismatchError: Expected all tensors to be on the same device"),
        ("type", "RuntimeError: aten.mm.default of ['torch.float16', 'torch.float32']"),
    ],
)
def test_a_planted_fault_is_found(
    finished: Mapping[str, Finished], fault: str, message: str
) -> None:
    result = _results(finished, "faults")[FAULTS.index(fault)]
    assert message in str(result["error"])


def test_a_planted_wait_is_found(finished: Mapping[str, Finished]) -> None:
    result = _results(finished, "faults")[FAULTS.index("wait")]
    assert result["error"] == ""
    planted = {"baselines/flow_matching.py:on_trajectory_term": 1}
    assert result["waits"] == WAITS | planted


def test_images_and_prompts_go_through_the_model_in_bounded_memory(
    finished: Mapping[str, Finished],
) -> None:
    small, large = _results(finished, "inference")
    for result in (small, large):
        assert (result["latents"], result["encoded"]) == ("torch.bfloat16", "torch.float32")
        assert result["waits"] == {}
        # 16 images: four of 512 px at a time take what one of 1024 px takes.
        assert result["peaks"]["decode"] == pytest.approx(3.25, abs=0.1)
        assert result["peaks"]["encode_images"] == pytest.approx(2.72, abs=0.05)
    # 64 prompts of 256 tokens at a time, 32 of 512.
    prompts = [small["peaks"][f"encode_prompts {tokens}"] for tokens in (77, 256, 512)]
    assert prompts == pytest.approx([0.57, 1.90, 2.06], rel=0.03)
    # 16 images of 512 px at a time, 4 of 1024 px; 16 of those took 5.8 GB.
    assert (small["rows"], large["rows"]) == (16, 4)
    assert small["peaks"]["sample"] == pytest.approx(1.72, rel=0.05)
    assert large["peaks"]["sample"] <= small["peaks"]["sample"]
    # Off the path too it is the forward of a sampler's step that takes memory.
    assert small["peaks"]["exposure"] == pytest.approx(small["peaks"]["sample"], rel=0.1)


def test_judges_forward_in_memory_that_the_images_size_does_not_change(
    finished: Mapping[str, Finished],
) -> None:
    small, large = _results(finished, "judges")
    assert small == pytest.approx(large, rel=0.02)
    # In bfloat16, half of what plan says of float32.
    planned = {
        judge.kind: (sum(weights.memory_gb for weights in judge.published) + judge.batch_gb) / 2
        for judge in JUDGES
    }
    assert small == pytest.approx(planned, rel=0.03)


@pytest.mark.parametrize("place", [0, 1], ids=["512", "1024"])
def test_encoding_and_drawing_take_what_is_planned(
    finished: Mapping[str, Finished], place: int
) -> None:
    result = _results(finished, "inference")[place]
    assert result["planned"] == pytest.approx(result["counted"], rel=0.03)
