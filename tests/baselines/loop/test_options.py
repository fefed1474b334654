"""What trades speed for memory changes no gradient; what a machine lacks is refused in one line."""

import copy
from importlib import machinery

import pytest
import torch
from peft import PeftModel

import baselines.config
from baselines.config import LoraConfig, OptimConfig, TrainingConfig
from baselines.loop.arguments import check_device, training_arguments
from baselines.loop.weights import prepare_transformer, save_transformer, start_from
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Velocity
from tests.tiny import tiny_transformer

ADAPTER = LoraConfig(rank=2, alpha=4.0, target_modules=Sd3Config.lora_targets)


def config(**changes):
    return TrainingConfig(steps=1, batch_size=2, **changes)


def inputs(rows=2):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    condition = {"prompt_embeds": draw(rows, 5, 32), "pooled_prompt_embeds": draw(rows, 32)}
    return draw(rows, 8, 8, 8), torch.linspace(0.3, 0.9, rows), condition


def gradients(model):
    """Gradients of a mean squared velocity, by the name of the weight."""
    SD3Velocity(model.train())(*inputs()).square().mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [None, ADAPTER])
def test_checkpointing_leaves_every_gradient_as_it_is(lora):
    plain = gradients(prepare_transformer(tiny_transformer(), config(), lora))
    spare = gradients(
        prepare_transformer(tiny_transformer(), config(gradient_checkpointing=True), lora)
    )
    assert plain.keys() == spare.keys()
    assert len(plain) > 10
    for name, gradient in plain.items():
        torch.testing.assert_close(spare[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lora", [None, ADAPTER])
def test_compiling_keeps_names_values_and_copies(lora):
    plain = prepare_transformer(tiny_transformer(), config(), lora)
    compiled = prepare_transformer(tiny_transformer(), config(compile=True), lora)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    layers = [m for m in compiled.modules() if m._compiled_call_impl is not None]
    assert [type(layer).__name__ for layer in layers] == ["JointTransformerBlock"] * 2
    # Runs the layers as they are: what is tested is that they are reached, not the compiler.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        assert SD3Velocity(compiled)(*inputs()).equal(SD3Velocity(plain)(*inputs()))
        assert SD3Velocity(copy.deepcopy(compiled))(*inputs()).equal(SD3Velocity(plain)(*inputs()))


def test_layers_of_several_kinds_are_all_compiled():
    versions = []

    def backend(graph, _):
        versions.append(graph)
        return graph

    model = prepare_transformer(tiny_transformer(), config(compile=True))
    for layer in model.transformer_blocks:
        layer.compile(backend=backend)
    # Numbers of rows in the place of kinds: each is another version of the code that layers share.
    fixed_sizes = torch._dynamo.config.patch(automatic_dynamic_shapes=False)
    with fixed_sizes, torch.no_grad():
        for rows in range(2, 8):
            SD3Velocity(model)(*inputs(rows))
    torch._dynamo.reset()
    assert len(versions) == 12


@pytest.mark.parametrize("lora", [None, ADAPTER])
def test_trained_weights_of_a_bf16_model_are_float32_masters(lora):
    model = prepare_transformer(tiny_transformer().bfloat16(), config(), lora)
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == (set() if lora is None else {torch.bfloat16})
    with torch.autocast("cpu", torch.bfloat16):
        assert SD3Velocity(model)(*inputs()).dtype == torch.bfloat16


def test_a_run_starts_from_the_weights_and_the_adapter_of_another(tmp_path):
    expected = []
    for lora in (None, ADAPTER):
        model = prepare_transformer(tiny_transformer(seed=1), config(), lora)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)
        folder = tmp_path / str(lora is None)
        save_transformer(model, folder)
        fresh = tiny_transformer(seed=1)
        start_from(fresh, folder)
        assert not isinstance(fresh, PeftModel)
        assert not any("lora" in name for name in fresh.state_dict())
        with torch.no_grad():
            expected.append(SD3Velocity(model)(*inputs()))
            torch.testing.assert_close(
                SD3Velocity(fresh)(*inputs()), expected[-1], rtol=1e-5, atol=1e-5
            )
    assert not expected[0].allclose(expected[1])


def test_8_bit_adam_wants_its_package_and_a_gpu(monkeypatch, tmp_path):
    eight_bit = OptimConfig(optimizer="adamw_8bit")
    monkeypatch.setattr(baselines.config, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"adamw_8bit needs the package bitsandbytes.*pip install"):
        eight_bit.check_packages()
    with pytest.raises(ValueError, match=r"runs on CUDA devices, not on cpu; use adamw"):
        training_arguments(config(), eight_bit, tmp_path, torch.device("cpu"), seed=0)
    spec = machinery.ModuleSpec("bitsandbytes", None)
    monkeypatch.setattr(baselines.config, "find_spec", lambda _: spec)
    eight_bit.check_packages()
    OptimConfig().check_packages()


def test_a_precision_that_the_gpu_lacks_is_named(monkeypatch):
    cuda = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(ValueError, match=r"mixed_precision=bf16: Tesla T4 has no bf16.*=no"):
        check_device(config(mixed_precision="bf16"), OptimConfig(), cuda)
    check_device(config(), OptimConfig(), cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    check_device(config(mixed_precision="bf16"), OptimConfig(), cuda)
    check_device(config(mixed_precision="bf16"), OptimConfig(), torch.device("cpu"))
