"""The loop on the class that is trained for real, tiny."""

import pytest
import torch
from diffusers import SD3Transformer2DModel
from peft import PeftModel

from baselines.config import EmaConfig, LoraConfig, OptimConfig
from baselines.loop.checkpoints import snapshot_path
from baselines.loop.post_train import post_train
from baselines.loop.sharding import DDP, whole
from baselines.schedule import StaticShift
from baselines.soar import Soar
from baselines.soar_config import SoarConfig
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Velocity
from tests.baselines.toys import Logs, run_config
from tests.tiny import tiny_transformer


class TinyRows:
    def __init__(self, count=6):
        rng = torch.Generator().manual_seed(1)
        self.x0 = torch.randn(count, 8, 8, 8, generator=rng)
        self.prompt_embeds = torch.randn(count, 3, 32, generator=rng)
        self.pooled = torch.randn(count, 32, generator=rng)

    def __len__(self):
        return len(self.x0)

    def __getitem__(self, index):
        condition = {
            "prompt_embeds": self.prompt_embeds[index],
            "pooled_prompt_embeds": self.pooled[index],
        }
        return {"x0": self.x0[index], "condition": condition, "prompt": str(index)}


LORA = LoraConfig(rank=2, alpha=4.0, target_modules=Sd3Config.lora_targets)


def soar():
    return Soar(SoarConfig(num_aux_points=2), schedule=StaticShift(3.0))


def run(folder, *, method=None, logs=None, parallelism=DDP, dtype=torch.float32, **changes):
    model = tiny_transformer().to(dtype).requires_grad_(False).eval()
    config = run_config(
        **{
            "steps": 4,
            "batch_size": 2,
            "save_steps": 2,
            "logging_steps": 1,
            "optim": OptimConfig(learning_rate=1e-3),
            **changes,
        }
    )
    post_train(
        model,
        method or soar(),
        TinyRows(),
        folder=folder,
        **config,
        velocity_of=SD3Velocity,
        negative_condition={
            "prompt_embeds": torch.zeros(1, 3, 32),
            "pooled_prompt_embeds": torch.zeros(1, 32),
        },
        on_log=Logs() if logs is None else logs,
        parallelism=parallelism,
    )
    return {name: whole(value).detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": EmaConfig(decay=0.9, every=1)},
        {"lora": LORA},
    ],
    ids=["full-ema", "lora"],
)
def test_resume_is_bit_equal_and_snapshots_load(tmp_path, changes):
    changes = {**changes, "num_snapshots": 1}
    straight = run(tmp_path / "straight", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", logs=Logs(stop_at=3), **changes)
    resumed = run(tmp_path / "cut", **changes)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    snapshot = snapshot_path(tmp_path / "cut", 4)
    if "lora" in changes:
        loaded = PeftModel.from_pretrained(tiny_transformer(), snapshot).base_model.model
        assert any("add_q_proj.lora_A" in name for name in straight)
    else:
        loaded = SD3Transformer2DModel.from_pretrained(snapshot)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, straight[name]), name


def test_gradient_checkpointing_changes_no_result(tmp_path):
    plain = run(tmp_path / "plain", steps=2)
    checkpointed = run(tmp_path / "checkpointed", steps=2, gradient_checkpointing=True)
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, rtol=0, atol=1e-6)
