"""The trained weights: prepared for training, saved and loaded in diffusers' or peft's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ModelMixin
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.config import LoraConfig
from baselines.training_config import PostTrainingConfig


def prepare_transformer(transformer: ModelMixin, config: PostTrainingConfig) -> nn.Module:
    """Make a loaded transformer trainable, in place.

    Args:
        transformer: A diffusers model, frozen or not.
        config: Says whether all weights are trained (then they become float32) or an adapter.

    Returns:
        ``transformer`` itself, or the ``PeftModel`` around it.

    Raises:
        ValueError: No module has the adapter's names, or the model cannot checkpoint gradients.
    """
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.requires_grad_(config.lora is None)
    if config.lora is not None:
        return _add_adapter(transformer, config.lora, config.seed)
    return transformer.float()


def _add_adapter(transformer: ModelMixin, lora: LoraConfig, seed: int) -> PeftModel:
    """A fresh LoRA adapter; peft draws from the global generator, which is put back afterwards."""
    adapter = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(transformer, adapter)
    assert isinstance(model, PeftModel)
    return model


def save_transformer(model: nn.Module, folder: Path) -> None:
    """Write the weights as ``from_pretrained`` of diffusers or peft reads them."""
    if isinstance(model, PeftModel):
        # "auto" would ask the hub about the base model's vocabulary.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        assert isinstance(model, ModelMixin)
        model.save_pretrained(folder)


def load_transformer(model: nn.Module, folder: Path) -> None:
    """Load what ``save_transformer`` wrote into ``model``, bit for bit.

    Raises:
        RuntimeError: The folder's weights are not those of ``model``.
    """
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(load_file(path))
    if isinstance(model, PeftModel):
        result = set_peft_model_state_dict(model, state)
        if result.unexpected_keys:
            raise RuntimeError(f"{folder}: adapter weights of another model, {result}")
    else:
        model.load_state_dict(state)
