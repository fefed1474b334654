"""Under bf16 each weight is cast once an update, and no gradient changes by that."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from baselines.base import World
from baselines.flow_grpo import FlowGrpo
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.loop import trainer
from baselines.schedule import StaticShift
from baselines.sft import Sft
from baselines.sft_config import SftConfig
from tests.baselines.loop.test_trainer_sd3 import LORA, run, soar

STEPS = 2


def sft():
    return Sft(SftConfig(), schedule=StaticShift(3.0))


def flow_grpo():
    config = FlowGrpoConfig(
        group_size=2, num_inference_steps=3, kl_coeff=0.1, updates_per_collection=1
    )
    return FlowGrpo(
        config, World(schedule=StaticShift(3.0), latent_shape=(8, 8, 8), reward=brightness)
    )


def brightness(_prompts, latents, _columns):
    assert not torch.is_autocast_enabled("cpu"), "rewards are computed as they always are"
    return latents.flatten(1).mean(1).tolist()


class Casts(TorchDispatchMode):
    """Counts casts of each trained weight to bfloat16."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        is_cast = func is torch.ops.aten._to_copy.default and kwargs["dtype"] == torch.bfloat16
        if is_cast and isinstance(args[0], torch.nn.Parameter) and args[0].requires_grad:
            self.counts[id(args[0])] += 1
        return func(*args, **kwargs)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("method", [sft, soar, flow_grpo])
def test_weights_are_cast_once_an_update_to_the_same_bits(tmp_path, monkeypatch, method, lora):
    def trained(name, *, gradient_checkpointing):
        changes = {"mixed_precision": "bf16", "steps": STEPS, "micro_batch_size": 1, "lora": lora}
        with Casts() as casts:
            weights = run(
                tmp_path / name,
                method=method(),
                gradient_checkpointing=gradient_checkpointing,
                **changes,
            )
        return weights, casts.counts

    weights, counts = trained("once", gradient_checkpointing=False)
    spare, counts_of_spare = trained("spare", gradient_checkpointing=True)
    # A rollout ends before the update begins.
    times = 2 * STEPS if method is flow_grpo else STEPS
    assert len(counts) > 10
    assert set(counts.values()) == set(counts_of_spare.values()) == {times}
    monkeypatch.setattr(trainer, "casts_kept", lambda _: nullcontext())
    expected, more = trained("each", gradient_checkpointing=False)
    assert min(more.values()) > times
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
        assert torch.equal(spare[name], value), name
