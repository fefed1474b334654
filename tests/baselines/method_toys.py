"""Tiny velocity models and batches for tests of the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from baselines.base import Batch, Condition, Method, Policies, VelocityModel
from baselines.flow import draw_noise, euler_sample, sampling_sigmas

LABELS = 3


class ToyModel(nn.Module):
    """A velocity of latents of any shape: a small network over all their elements."""

    def __init__(self, shape: Sequence[int] = (2,), width: int = 32, seed: int = 0):
        super().__init__()
        self.shape = tuple(shape)
        size = int(torch.tensor(self.shape).prod())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(size + 1 + LABELS, width), nn.SiLU(), nn.Linear(width, size)
            )
        self.calls: list[tuple[int, bool]] = []

    def forward(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.calls.append((len(latents), torch.is_grad_enabled()))
        inputs = [latents.flatten(1), sigma[:, None], condition["label"]]
        return self.net(torch.cat(inputs, 1)).reshape(latents.shape)


class ConvModel(nn.Module):
    """A convolutional velocity of (B, C, H, W)."""

    def __init__(self, channels: int = 4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(channels, 8, 3, padding=1)
            self.last = nn.Conv2d(8, channels, 3, padding=1)
            self.embed = nn.Linear(1 + LABELS, 8)

    def forward(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        shift = self.embed(torch.cat([sigma[:, None], condition["label"]], 1))
        return self.last(torch.tanh(self.first(latents) + shift[:, :, None, None]))


def tiny_sd3() -> nn.Module:
    """A real SD3 transformer on 4 x 8 x 8 latents."""
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pooled_projection_dim=8,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
        )


def sd3_condition(count: int, seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "prompt_embeds": torch.randn(count, 5, 16, generator=rng),
        "pooled_prompt_embeds": torch.randn(count, 8, generator=rng),
    }


def sd3_velocity(transformer: nn.Module) -> VelocityModel:
    def velocity(latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return transformer(
            hidden_states=latents,
            timestep=1000 * sigma,
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
        ).sample

    return velocity


class PathModel:
    """The velocity of the straight path that each row was built from: a perfect model."""

    def __init__(self, x0: Tensor, noise: Tensor):
        self.velocity = noise - x0

    def __call__(self, latents: Tensor, *_: object) -> Tensor:
        return self.velocity.repeat(len(latents) // len(self.velocity), *[1] * (latents.ndim - 1))


def toy_batch(count: int, shape: Sequence[int] = (2,), seed: int = 0) -> Batch:
    """Rows with random x0, one-hot labels and the zero label for the empty prompt."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % LABELS
    return Batch(
        tensors={"x0": torch.randn(count, *shape, generator=rng)},
        condition={"label": nn.functional.one_hot(label, LABELS).float()},
        negative_condition={"label": torch.zeros(count, LABELS)},
        prompts=[f"prompt {i}" for i in label.tolist()],
        columns={"row": list(range(count))},
    )


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def backward(
    method: Method,
    model: nn.Module,
    batch: Batch,
    reference: nn.Module | None = None,
    old: nn.Module | None = None,
) -> tuple[float, Mapping[str, float]]:
    """Do what the loop does for one process and one micro-batch. -> loss, metrics."""
    model.zero_grad()
    weight = method.weight(batch)
    loss, metrics = 0.0, {}
    for term in method.losses(Policies(model, old, reference), batch):
        (term.loss_sum / weight).backward()
        loss += term.loss_sum.item() / weight
        for name, value in term.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value.item() / weight
    return loss, metrics


def distances_while_learning(method: Method, rows: int, steps: int = 200) -> tuple[float, float]:
    """Train on one point a label; mean distance of samples to it, before and after."""
    points = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.0, -2.0]])
    model = ToyModel(width=64)
    test = toy_batch(30)
    noise = draw_noise((2,), generators(30, seed=9), torch.device("cpu"))

    def distance() -> float:
        sigmas = sampling_sigmas(20, 1.0)
        samples = euler_sample(model, noise, sigmas, test.condition, test.negative_condition, 1.0)
        return (samples - points[torch.arange(30) % LABELS]).norm(dim=1).mean().item()

    before = distance()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        batch = toy_batch(rows).with_tensors(x0=points[torch.arange(rows) % LABELS])
        rngs = [torch.Generator().manual_seed(rows * step + i) for i in range(rows)]
        backward(method, model, method.collect(Policies(model), batch, rngs).batch)
        optimizer.step()
    return before, distance()
