"""The trained weights: prepared for training, saved and loaded in diffusers' or peft's layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import recursively_apply
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.config import LoraConfig, TrainingConfig
from baselines.loop.sharding import is_sharded, plain_copy, whole

_RECOMPILE_LIMIT = 64


def prepare_transformer(
    transformer: nn.Module, training: TrainingConfig, lora: LoraConfig | None = None, seed: int = 0
) -> nn.Module:
    """Make a loaded transformer trainable, in place. -> itself, or the ``PeftModel`` around it.

    Without ``lora`` all weights are trained, which become float32; ``seed`` is of the adapter's
    initial weights. ``ValueError`` where the model is not of diffusers, has no module of the
    adapter's names, or cannot checkpoint gradients.
    """
    if not isinstance(transformer, ModelMixin):
        raise ValueError(
            f"{type(transformer).__name__} is no diffusers model (ModelMixin), so its weights "
            "could not be saved for the pipeline; give the transformer of a loaded pipeline"
        )
    if training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.requires_grad_(lora is None)
    if lora is None:
        # bf16 keeps 8 bits of a weight: most updates of 2e-5 would round to nothing.
        transformer.float()
    return with_trained_part(transformer, training, lora, seed)


def with_trained_part(
    transformer: nn.Module, training: TrainingConfig, lora: LoraConfig | None, seed: int = 0
) -> nn.Module:
    """As ``prepare_transformer``, but only to compute with: weights keep their type."""
    trained = transformer
    if lora is not None:
        assert isinstance(transformer, ModelMixin)
        trained = _add_adapter(transformer, lora, seed)
    if training.compile:
        # Layers share their code: SD3.5's three kinds, with and without gradients, by number of
        # rows, are more than dynamo's 8 versions, beyond which it would leave layers uncompiled.
        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        stacks = [child for child in transformer.children() if isinstance(child, nn.ModuleList)]
        # Layer by layer and in place: names of weights stay, and equal layers compile once.
        for layer in [layer for stack in stacks for layer in stack] or [transformer]:
            layer.compile()
    return trained


def _add_adapter(transformer: ModelMixin, lora: LoraConfig, seed: int) -> PeftModel:
    if lora.target_modules is None:
        raise ValueError("lora.target_modules=None: name the layers, or ask the model's family")
    adapter = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        target_modules=list(lora.target_modules),
        init_lora_weights="gaussian",
    )
    # peft draws from the global generator, which is put back afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(transformer, adapter)
    assert isinstance(model, PeftModel)
    return model


def start_from(transformer: nn.Module, folder: Path) -> None:
    """Give a transformer, in place, the weights that another run of it ended with.

    ``folder`` is what ``save_transformer`` wrote; an adapter is merged into the weights, in
    float32, and the sum is rounded to their type. ``RuntimeError`` where its weights are not those
    of ``transformer``.
    """
    if not (folder / "adapter_config.json").is_file():  # that peft writes, and diffusers does not
        load_transformer(transformer, folder)
        return
    assert isinstance(transformer, ModelMixin)
    # Or peft would read the file onto the first GPU, in every process; its layers are the model's.
    adapted = PeftModel.from_pretrained(transformer, str(folder), torch_device="cpu")
    for layer in [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]:
        # A layer at a time: the whole model in float32 may be more than a GPU holds.
        base = layer.get_base_layer()
        dtype = next(base.parameters()).dtype
        base.float()
        layer.merge()
        base.to(dtype)
    adapted.unload()


def save_transformer(
    model: nn.Module, folder: Path, *, dtype: torch.dtype | None = None, is_main: bool = True
) -> None:
    """Write the weights as ``from_pretrained`` of diffusers or peft reads them, if ``is_main``.

    ``dtype`` is what they are rounded to; without one they keep their own.
    """
    # Shards are gathered by all; else the others would copy all weights for nothing.
    if is_main or is_sharded(model):
        write = held_transformer(model, dtype)
        if is_main:
            write(folder)


def held_transformer(
    model: nn.Module, dtype: torch.dtype | None = None
) -> Callable[[Path], object]:
    """Copy the trained weights to host memory. -> what writes the copies, whenever it is called."""
    # Every process that holds a part of the weights gathers them; one writes.
    if isinstance(model, PeftModel):
        adapter = {n: v for n, v in model.state_dict().items() if "lora_" in n}
        state = {name: _on_host(whole(value), dtype) for name, value in adapter.items()}
        # "auto" would ask the hub about the base model's vocabulary.
        return partial(model.save_pretrained, state_dict=state, save_embedding_layers=False)
    state = {name: _on_host(whole(value), dtype) for name, value in model.state_dict().items()}
    plain = plain_copy(model, state)
    assert isinstance(plain, ModelMixin)
    write: Callable[[Path], object] = plain.save_pretrained
    return write


def on_host(state: dict[str, object]) -> dict[str, object]:
    """A state, nested or not, with copies in host memory of its tensors."""
    copied: dict[str, object] = recursively_apply(_on_host, state)
    return copied


def _on_host(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None, copy=True)


def load_transformer(model: nn.Module, folder: Path) -> None:
    """Load what ``save_transformer`` wrote into ``model``, bit for bit.

    ``RuntimeError`` where the folder's weights are not those of ``model``.
    """
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(load_file(path))
    if isinstance(model, PeftModel):
        # peft itself passes over missing and unknown names, and the run would go on untrained.
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        different = state.keys() ^ expected.keys()
        if different:
            raise RuntimeError(f"{folder}: not this model's adapter, see {sorted(different)[:4]}")
        set_peft_model_state_dict(model, state)
    else:
        model.load_state_dict(state)
