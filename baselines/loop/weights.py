"""The trained weights: prepared for training, saved and loaded in diffusers' or peft's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.config import LoraConfig, TrainingConfig
from baselines.loop.sharding import plain_copy, whole

#: Tells a directory of peft's from one of diffusers'.
ADAPTER_FILE = "adapter_config.json"


def prepare_transformer(
    transformer: nn.Module, training: TrainingConfig, lora: LoraConfig | None = None, seed: int = 0
) -> nn.Module:
    """Make a loaded transformer trainable, in place.

    Args:
        transformer: A diffusers model, frozen or not.
        training: Says what memory is saved by, and whether layers are compiled.
        lora: The adapter to train; null trains all weights, which become float32.
        seed: Of the adapter's initial weights.

    Returns:
        ``transformer`` itself, or the ``PeftModel`` around it.

    Raises:
        ValueError: The model is not of diffusers, has no module of the adapter's names, or cannot
            checkpoint gradients.
    """
    if not isinstance(transformer, ModelMixin):
        raise ValueError(
            f"{type(transformer).__name__} is no diffusers model (ModelMixin), so its weights "
            "could not be saved for the pipeline; give the transformer of a loaded pipeline"
        )
    if training.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.requires_grad_(lora is None)
    if lora is not None:
        trained: nn.Module = _add_adapter(transformer, lora, seed)
    else:
        trained = transformer.float()
    if training.compile:
        compile_layers(transformer)
    return trained


def compile_layers(transformer: nn.Module) -> None:
    """Compile each layer in place: names of weights stay, and equal layers compile once."""
    stacks = [child for child in transformer.children() if isinstance(child, nn.ModuleList)]
    for layer in [layer for stack in stacks for layer in stack] or [transformer]:
        layer.compile()


def _add_adapter(transformer: ModelMixin, lora: LoraConfig, seed: int) -> PeftModel:
    """A fresh LoRA adapter; peft draws from the global generator, which is put back afterwards."""
    if lora.target_modules is None:
        raise ValueError("lora.target_modules=None: name the layers, or ask the model's family")
    adapter = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        target_modules=list(lora.target_modules),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(transformer, adapter)
    assert isinstance(model, PeftModel)
    return model


def start_from(transformer: nn.Module, folder: Path) -> None:
    """Give a transformer, in place, the weights that another run ended with.

    Args:
        transformer: The diffusers model that the other run started from.
        folder: What ``save_transformer`` wrote; an adapter is merged into the weights.

    Raises:
        RuntimeError: The folder's weights are not those of ``transformer``.
    """
    if not (folder / ADAPTER_FILE).is_file():
        load_transformer(transformer, folder)
        return
    assert isinstance(transformer, ModelMixin)
    adapted = PeftModel.from_pretrained(transformer, str(folder))
    adapted.merge_and_unload()


def save_transformer(model: nn.Module, folder: Path, *, is_main: bool = True) -> None:
    """Write the weights as ``from_pretrained`` of diffusers or peft reads them.

    Args:
        model: What is trained; every process that holds a part of it calls this.
        folder: Where to.
        is_main: Whether this process writes.
    """
    if isinstance(model, PeftModel):
        state = {n: whole(value) for n, value in model.state_dict().items() if "lora_" in n}
        if is_main:
            # "auto" would ask the hub about the base model's vocabulary.
            model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
        return
    plain = plain_copy(model)
    assert isinstance(plain, ModelMixin)
    if is_main:
        plain.save_pretrained(folder)


def load_transformer(model: nn.Module, folder: Path) -> None:
    """Load what ``save_transformer`` wrote into ``model``, bit for bit.

    Raises:
        RuntimeError: The folder's weights are not those of ``model``.
    """
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(load_file(path))
    if isinstance(model, PeftModel):
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        different = state.keys() ^ expected.keys()
        if different:
            raise RuntimeError(f"{folder}: not this model's adapter, see {sorted(different)[:4]}")
        set_peft_model_state_dict(model, state)
    else:
        model.load_state_dict(state)
