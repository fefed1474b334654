"""Published weights as anchors: LoRAs in peft's format and whole transformers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from safetensors.torch import save_file

from baselines.config import EmaConfig
from baselines.config import LoraConfig as LoraSettings
from baselines.loop.checkpoints import checkpoint_path, snapshot_path
from soarbench.cli.run import run_whole
from soarbench.common.errors import UserError
from soarbench.common.files import read_json
from soarbench.evaluation.rows import ScoreRows
from soarbench.grid import addresses
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.workbench import ModelWorkbench
from soarbench.models.adapters import adapter_name, apply_adapter, weights_folder
from soarbench.models.sd3.config import Sd3Config
from soarbench.models.sd3.model import SD3Velocity
from tests.baselines.loop.test_trainer_sd3 import run as train_tiny
from tests.fakes import SMALL, FakeWorkbench
from tests.tiny import build_tiny_pipeline, tiny_transformer

MODULES = ["attn.to_q", "attn.to_out.0", "attn.add_k_proj"]


def published_lora(folder: Path, modules: list[str] = MODULES) -> torch.Tensor:
    """Save a LoRA as peft does, with weights that matter. -> the adapted model's velocity."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=modules, init_lora_weights=False)
    torch.manual_seed(3)
    adapted = get_peft_model(tiny_transformer(), config)
    adapted.save_pretrained(str(folder))
    return velocity(adapted)


def velocity(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    condition = {
        "prompt_embeds": torch.randn(1, 5, 32, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 32, generator=generator),
    }
    latents = torch.randn(1, 8, 8, 8, generator=generator)
    with torch.no_grad():
        return SD3Velocity(model.eval())(latents, torch.tensor([0.4]), condition)


@pytest.mark.parametrize("place", ["", "lora", "checkpoint-100/lora"])
def test_a_lora_does_what_it_did_for_its_author(tmp_path: Path, place: str) -> None:
    expected = published_lora(tmp_path / place)
    model = tiny_transformer()
    before = velocity(model)
    apply_adapter(model, str(tmp_path), base="tiny")
    torch.testing.assert_close(velocity(model), expected, rtol=1e-5, atol=1e-5)
    assert not expected.allclose(before, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_lora_on_a_bf16_base_is_rounded_once(tmp_path: Path) -> None:
    expected = published_lora(tmp_path)
    model = tiny_transformer().bfloat16()
    apply_adapter(model, str(tmp_path), base="tiny")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    difference = (velocity(model).float() - expected).abs().max()
    assert difference < 0.05 * expected.abs().max()
    exact = tiny_transformer().bfloat16().float()
    PeftModel.from_pretrained(exact, str(tmp_path)).merge_and_unload()
    for name, value in exact.bfloat16().state_dict().items():
        assert model.state_dict()[name].equal(value), name


def test_published_weights_are_never_all_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_lora(tmp_path / "lora")
    tiny_transformer(seed=5).save_pretrained(tmp_path / "whole")
    exact = tiny_transformer(seed=5).bfloat16().state_dict()
    monkeypatch.setattr(SD3Transformer2DModel, "float", lambda _: pytest.fail("all of them"))
    for source in ("lora", "whole"):
        model = tiny_transformer().bfloat16()
        apply_adapter(model, str(tmp_path / source), base="tiny")
    assert all(value.equal(exact[name]) for name, value in model.state_dict().items())


def test_an_adapter_is_not_read_onto_the_first_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = published_lora(tmp_path)
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "meta")
    model = tiny_transformer()
    apply_adapter(model, str(tmp_path), base="tiny")
    torch.testing.assert_close(velocity(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["", "transformer"])
def test_a_whole_checkpoint_takes_the_place_of_the_base(tmp_path: Path, place: str) -> None:
    other = tiny_transformer(seed=5)
    other.save_pretrained(tmp_path / place)
    model = tiny_transformer()
    apply_adapter(model, str(tmp_path), base="tiny")
    assert velocity(model).equal(velocity(other))


def refusal(source: Path) -> str:
    with pytest.raises(UserError) as caught:
        apply_adapter(tiny_transformer(), str(source), base="tiny")
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(source), "DIR")


def test_a_lora_for_other_modules_is_refused(tmp_path: Path) -> None:
    published_lora(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    prefix = "base_model.model.single_blocks.0.linear1.lora"
    save_file({f"{prefix}_A.weight": torch.zeros(2, 32)}, path)
    expected = "a LoRA for another model than tiny (it has no single_blocks.0.linear1)"
    assert refusal(tmp_path) == f"model.adapter=DIR: {expected}"
    prefix = "base_model.model.transformer_blocks.0.attn.to_q.lora"
    save_file({f"{prefix}_A.weight": torch.zeros(2, 1536)}, path)
    assert "attn.to_q takes 32 inputs, the LoRA's 1536" in refusal(tmp_path)
    save_file({f"{prefix}_B.weight": torch.zeros(1536, 2)}, path)
    assert "attn.to_q gives 32 outputs, the LoRA's 1536" in refusal(tmp_path)
    save_file({"proj.hada_w1_a": torch.zeros(2, 2)}, path)
    assert "proj.hada_w1_a is no factor of a LoRA" in refusal(tmp_path)


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    assert "neither a LoRA in peft's format (adapter_config.json) nor a" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    assert "neither a LoRA" in refusal(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    assert "holds several adapters (a, b); name one" in refusal(tmp_path)
    assert "holds no safetensors file" in refusal(tmp_path / "a")
    for content in (b"\xff" * 100, b"\x03" + b"\0" * 7 + b"[1]", b"\x07" + b"\0" * 7 + b'{"x":1}'):
        (tmp_path / "a" / "adapter_model.safetensors").write_bytes(content)
        assert "adapter_model.safetensors is no safetensors file" in refusal(tmp_path / "a")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("[1]")
    assert "config.json is no JSON object" in refusal(tmp_path / "c")


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    config = {**tiny_transformer().config, "num_layers": 3}
    SD3Transformer2DModel.from_config(config).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "weights for another model than tiny (transformer_blocks" in message
    assert "is in one of them alone" in message


def test_names_are_the_last_part() -> None:
    assert adapter_name("jieliu/SD3.5M-FlowGRPO-GenEval@main") == "SD3.5M-FlowGRPO-GenEval"
    assert adapter_name("/a/b/my lora/") == "my_lora"


# --- what the trainer writes ----------------------------------------------------------------------


WITHOUT_T5 = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": EmaConfig(decay=0.5, every=1)},
        {"lora": LoraSettings(rank=2, alpha=4.0, target_modules=Sd3Config.lora_targets)},
    ],
    ids=["full", "lora"],
)
def test_every_checkpoint_and_snapshot_is_read_by_the_evaluator_and_by_the_libraries(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    weights = train_tiny(tmp_path / "run", num_snapshots=2, **changes)
    pipeline = build_tiny_pipeline(tmp_path / "model")
    snapshot = snapshot_path(tmp_path / "run", 4)
    for source in (snapshot, checkpoint_path(tmp_path / "run", 4)):
        model = tiny_transformer()
        apply_adapter(model, str(source), base="tiny")
        adapted = velocity(model)
        loaded = StableDiffusion3Pipeline.from_pretrained(pipeline, **WITHOUT_T5)
        folder = weights_folder(source, str(source), "SD3Transformer2DModel")
        if "lora" in changes:
            loaded.transformer = PeftModel.from_pretrained(loaded.transformer, folder)
        else:
            loaded.transformer = SD3Transformer2DModel.from_pretrained(folder)
        torch.testing.assert_close(velocity(loaded.transformer), adapted, rtol=1e-5, atol=1e-5)
        assert not adapted.allclose(velocity(tiny_transformer()), atol=1e-5)
        images = loaded(
            "a cat", height=64, width=64, num_inference_steps=1, output_type="np"
        ).images
        assert images.shape == (1, 64, 64, 3)
    if "ema" in changes:
        # The snapshot holds the average, the checkpoint the weights that training goes on from.
        averaged = SD3Transformer2DModel.from_pretrained(snapshot).state_dict()
        assert all(averaged[name].equal(value) for name, value in weights.items())
        assert not adapted.equal(velocity(SD3Transformer2DModel.from_pretrained(snapshot)))


# --- in a grid ------------------------------------------------------------------------------------


def anchored(overrides: list[str], source: Path | str, *changes: str) -> Grid:
    return expand([*overrides, "tracking=none", f"model.adapter={source}", *changes])


def test_an_adapter_becomes_a_row_of_every_task_and_nothing_is_trained(
    overrides: list[str], tmp_path: Path
) -> None:
    published_lora(tmp_path / "mine")
    grid = anchored(overrides, tmp_path / "mine")
    assert [cell.label for cell in grid.cells] == [
        *("base", "mine aesthetic seed 0", "mine alignment seed 0")
    ]
    base, anchor, _ = grid.cells
    assert addresses.cell_id(base) == addresses.cell_id(expand(overrides).cells[0])
    assert base.model.adapter is None
    assert anchor.model.adapter == str(tmp_path / "mine")
    assert (anchor.training, anchor.method, anchor.data, anchor.steps) == (None, None, None, (0,))
    with pytest.raises(UserError, match=r"trains nothing: leave method=\.\.\. out"):
        anchored(overrides, tmp_path / "mine", "method=sft")
    published_lora(tmp_path / "mine", ["attn.to_v"])
    changed = anchored(overrides, tmp_path / "mine").cells[1]
    assert addresses.cell_id(changed) != addresses.cell_id(anchor)


def test_a_hub_id_is_expanded_without_a_download() -> None:
    source = "jieliu/SD3.5M-FlowGRPO-GenEval"
    grid = expand(["grid=main_table", "model=sd35_medium", f"model.adapter={source}"])
    assert [cell.method_name for cell in grid.cells] == ["base", "SD3.5M-FlowGRPO-GenEval"]
    assert grid.cells[1].weights_digest.endswith(f"+{source}")


def test_anchors_are_reported_beside_the_base(overrides: list[str], tmp_path: Path) -> None:
    published_lora(tmp_path / "mine")
    grid = anchored(overrides, tmp_path / "mine", "task=aesthetic")
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    bench = FakeWorkbench().at(grid.store)
    assert run_whole(grid, console=console, make_workbench=lambda _: bench) == 0
    assert "mine" in stream.getvalue()
    assert "vs Base" in stream.getvalue()
    summary = read_json(Path(grid.settings.results_dir) / "reward_specific" / "summary.json")
    assert summary["partial"] is False


def published_grid(folder: Path, *changes: str) -> list[str]:
    """Words of a grid that trains SFT beside published weights and another sampler."""
    settings = f"['model.adapter={folder}','sampling.guidance_scale=1']"
    mine = f"{{of: base, title: 'Mine (no guidance)', settings: {settings}}}"
    plain = "{of: base, title: 'No guidance', settings: ['sampling.guidance_scale=1']}"
    names = ["grid.tasks=[aesthetic]", f"grid.variants={{mine: {mine}, plain: {plain}}}"]
    return [*names, *(changes or ("grid.methods=[mine,plain,sft]",))]


def test_variants_of_the_base_are_drawn_as_published_and_reported_beside_trained_ones(
    overrides: list[str], tmp_path: Path
) -> None:
    published_lora(tmp_path / "mine")
    quick = ["tracking=none", "diagnostics=false", "seeds=[0,1]"]
    words = [*overrides, *quick, *published_grid(tmp_path / "mine")]
    grid = expand(words)
    assert [cell.label for cell in grid.cells] == [
        *("base", "mine aesthetic seed 0", "plain aesthetic seed 0"),
        *("sft aesthetic seed 0", "sft aesthetic seed 1"),
    ]
    base, mine, plain, sft, _ = grid.cells
    assert [cell.model.adapter for cell in (base, mine, plain, sft)] == [
        *(None, str(tmp_path / "mine"), None, None)
    ]
    assert [one.sampling.guidance_scale for one in (mine, plain, sft)] == [
        *(1, 1, base.sampling.guidance_scale)
    ]
    alone = expand([*overrides, "grid.tasks=[aesthetic]", "seeds=[0]", "method=sft"])
    assert addresses.cell_id(alone.cells[1]) == addresses.cell_id(sft)
    console = Console(file=io.StringIO(), width=200)
    bench = FakeWorkbench().at(grid.store)
    assert run_whole(grid, console=console, make_workbench=lambda _: bench) == 0
    table = (Path(grid.settings.results_dir) / "reward_specific" / "table.md").read_text()
    assert "| Mine (no guidance) |" in table
    assert "| No guidance |" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("grid.methods=[mine,mine_then_sft]", "'mine_then_sft': what is not trained is no stage"),
        ("grid.variants.mine.factors=['optim.learning_rate=3']", "mine: base is not trained; only"),
        ("grid.variants.mine.cost_of=sft", "mine: base is not trained; only settings can vary it"),
    ],
)
def test_what_is_not_trained_is_no_stage_and_has_no_cost(
    overrides: list[str], tmp_path: Path, change: str, message: str
) -> None:
    published_lora(tmp_path / "mine")
    with pytest.raises(UserError) as caught:
        expand([*overrides, *published_grid(tmp_path / "mine", "grid.methods=[mine]", change)])
    assert message in str(caught.value)


def test_public_adapters_that_are_not_there_are_refused_by_the_command_that_gets_them(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    grid = expand([*overrides, "grid=anchors", f"model.path={build_tiny_pipeline(tmp_path / 'm')}"])
    with pytest.raises(UserError) as caught:
        ModelWorkbench("cpu", grid.store).prepare(grid_jobs(grid.cells, diagnostics=False))
    text = str(caught.value)
    assert "`python -m soarbench fetch jieliu/SD3.5M-FlowGRPO-GenEval`" in text
    assert len(text) <= 300
    assert "\n" not in text


@pytest.mark.slow
def test_an_adapter_is_evaluated_for_real(tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline(tmp_path / "model")
    published_lora(tmp_path / "mine")
    arguments = [
        *("grid=reward_specific", "grid.tasks=[aesthetic]", f"model.path={pipeline}", *SMALL),
        *(f"output_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"),
        *("tracking=none", "device=cpu", f"model.adapter={tmp_path / 'mine'}"),
        *("sampling.num_inference_steps=2", "suites.drawbench.judges=[oracle_aesthetic]"),
        *("task.final_metric=oracle_aesthetic", "data.select_by=[oracle_aesthetic]"),
    ]
    grid = expand(arguments)
    bench = ModelWorkbench("cpu", grid.store)
    console = Console(file=io.StringIO(), width=160)
    assert run_whole(grid, console=console, make_workbench=lambda _: bench) == 0
    values = [
        tuple(row["value"] for row in rows.read())
        for rows in (ScoreRows(path.parent) for path in grid.store.root.rglob("rows.parquet"))
    ]
    assert len(values) == len(set(values)) == 2
    drawn = bench.models.load(grid.cells[1]).transformer
    torch.testing.assert_close(
        drawn.transformer_blocks[0].attn.to_q.weight,
        adapted_weight(tmp_path / "mine"),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip

    published_lora(tmp_path / "other")
    save_file(
        {"base_model.model.nowhere.lora_A.weight": torch.zeros(2, 2)},
        tmp_path / "other" / "adapter_model.safetensors",
    )
    wrong = expand([*arguments, f"model.adapter={tmp_path / 'other'}"])
    with pytest.raises(UserError, match="a LoRA for another model than"):
        run_whole(wrong, console=console, make_workbench=lambda _: bench)


def adapted_weight(folder: Path) -> torch.Tensor:
    """The first query projection with the LoRA added by hand: W + alpha / r B A."""
    from safetensors.torch import load_file

    stored = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.transformer_blocks.0.attn.to_q.lora"
    weight = tiny_transformer().transformer_blocks[0].attn.to_q.weight
    return weight + 2.0 * stored[f"{name}_B.weight"] @ stored[f"{name}_A.weight"]
