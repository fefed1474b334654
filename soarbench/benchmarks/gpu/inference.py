"""Images a second of sampling and of both halves of the autoencoder, with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from soarbench.benchmarks.full_size import RandomRows
from soarbench.benchmarks.gpu.training import Report, peak_memory
from soarbench.benchmarks.published_sizes import random_pipeline
from soarbench.common.errors import UserError
from soarbench.models.base import ImageModel
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Model
from soarbench.planning.fake_transformer import MetaModel
from soarbench.planning.memory_and_time import Demand, Gpu

#: Rows that are sampled together and images that are decoded, as ``sampling.batch_size`` of the
#: published evaluation; steps and guidance are also its.
ROWS, DECODED, STEPS, GUIDANCE = 16, 32, 40, 4.5


def measure_sampling(demand: Demand, device: torch.device, gpu: Gpu | None, report: Report) -> None:
    """Sampling with guidance, decoding and encoding, with an autoencoder in two layouts."""
    model = random_model(demand, device)
    draw = _sampler(model, demand, ROWS)
    draw(2)
    rate = images_a_second(lambda: draw(STEPS), ROWS, device, rounds=2)
    values: dict[str, object] = {"sampling images/s": rate, "steps": STEPS}
    if gpu is not None:
        meta = MetaModel(demand.model.architecture(), demand.model, demand.training)
        values["sampling MFU"] = 2 * STEPS * meta.forward_flops() * rate / gpu.bf16_tflops / 1e12
    report(values | {f"sampling {name}": size for name, size in peak_memory(device).items()})
    measure_autoencoder(model, DECODED, device, report)


def measure_autoencoder(
    model: SD3Model, count: int, device: torch.device, report: Report, *, rounds: int = 3
) -> None:
    """Images a second of decoding to pictures and of encoding them."""
    latents = torch.randn(count, *model.latent_shape).to(device)
    images: list[Image.Image] = []

    def decode() -> None:
        images[:] = model.decode(latents)

    for layout in (torch.contiguous_format, torch.channels_last):
        model.pipeline.vae.to(memory_format=layout)
        name = str(layout).removeprefix("torch.")
        decode()
        rate = images_a_second(decode, count, device, rounds=rounds)
        report({f"decode images/s, {name}": rate})
    model.pipeline.vae.to(memory_format=torch.contiguous_format)
    model.encode_images(images)
    rate = images_a_second(lambda: model.encode_images(images), count, device, rounds=rounds)
    report({"encode images/s": rate})


def random_model(demand: Demand, device: torch.device) -> SD3Model:
    """The model of a demand, of SD3's family, with random weights and without text encoders."""
    config = demand.model
    if not isinstance(config, Sd3Config):
        raise UserError(
            f"model={config.name}: sampling is measured with SD3's alone; choose model=sd35_medium"
        )
    with device:
        pipeline = random_pipeline(config.architecture(), getattr(torch, config.dtype))
    return SD3Model(pipeline, config)


def _sampler(model: ImageModel, demand: Demand, count: int) -> Callable[[int], Tensor]:
    """A function of the number of steps that samples some rows."""
    rows = RandomRows(demand, demand.model.architecture())
    generator = torch.Generator().manual_seed(0)
    condition = {
        name: value.expand(count, *value.shape).to(model.device)
        for name, value in rows.condition(generator).items()
    }
    noise = torch.randn(count, *model.latent_shape, generator=generator)

    @torch.no_grad()
    def draw(steps: int) -> Tensor:
        return model.sample(condition, condition, noise, steps, GUIDANCE)

    return draw


def images_a_second(
    work: Callable[[], object], count: int, device: torch.device, *, rounds: int
) -> float:
    """Of the fastest of some rounds; other work on a machine only ever adds time."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return count / min(seconds)
