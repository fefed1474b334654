"""What configurations put into addresses, and that each of their fields can be given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from baselines.awm_config import AwmConfig
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.config import ADDRESS_IF_SET, EmaConfig, LoraConfig, OptimConfig, TrainingConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from soarbench.common.strict import address_content, build, plain
from soarbench.data.config import CurationConfig
from soarbench.data.forms import DatasetsDataConfig, JsonlDataConfig, WebDatasetConfig
from soarbench.lab.config import LabDataConfig, LabModelConfig
from soarbench.models.sd3.config import Sd3Config
from tests.sets import write_set

CONFIGS = (
    SftConfig(),
    SoarConfig(),
    FlowGrpoConfig(),
    DiffusionNftConfig(),
    AwmConfig(),
    BestOfGroupConfig(keep=2),
    OnlineDpoConfig(),
    OptimConfig(),
    LoraConfig(target_modules=("attn.to_q",)),
    EmaConfig(),
    TrainingConfig(steps=4, batch_size=2, micro_batch_size=1),
    CurationConfig(thresholds={"aesthetic": 6.8}),
    JsonlDataConfig(path="rows.jsonl"),
    DatasetsDataConfig(path="owner/name"),
    WebDatasetConfig(path="shards"),
    LabDataConfig(num_candidates=10, select_by=("aesthetic",), keep_fraction=0.5),
    Sd3Config(name="x", path="owner/name", resolution=64),
    LabModelConfig(),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_field_can_be_given_as_yaml_gives_it(config: object) -> None:
    values = plain(config)
    assert isinstance(values, dict)
    assert build(type(config), values, "x") == config


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (SoarConfig(), {"aux_chunk": 3}),
        (
            TrainingConfig(steps=4, batch_size=2),
            {
                "save_steps": 2,
                "save_minutes": 3.0,
                "keep_checkpoints": 1,
                "micro_batch_size": 1,
                "gradient_checkpointing": True,
                "compile": True,
                "logging_steps": 3,
                "num_workers": 1,
            },
        ),
        (JsonlDataConfig(content="abc"), {"path": "/x", "scores": "/y", "cache_latents": False}),
        (Sd3Config(name="x", path="y", resolution=64), {"name": "z", "path": "/z"}),
    ],
)
def test_what_only_costs_is_in_no_address(config: object, changes: dict[str, object]) -> None:
    content = address_content(config)
    assert isinstance(content, dict)
    assert not content.keys() & changes.keys()
    for name, value in changes.items():
        changed = dataclasses.replace(config, **{name: value})  # type: ignore[type-var]
        assert address_content(changed) == content


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_what_changes_a_number_is_in_the_address(config: object) -> None:
    content = address_content(config)
    assert isinstance(content, dict)
    names = {
        entry.name
        for entry in dataclasses.fields(config)  # type: ignore[arg-type]
        if entry.metadata.get("address", True)
        and not (entry.metadata == ADDRESS_IF_SET and getattr(config, entry.name) == entry.default)
    }
    assert names == content.keys() - {"kind"}


def test_a_setting_that_came_later_is_in_the_address_once_it_is_another() -> None:
    assert not address_content(SftConfig()).keys() & {"num_points"}  # type: ignore[attr-defined]
    assert address_content(SftConfig(num_points=7)) != address_content(SftConfig())
    controls = [SoarConfig(off_path=False), SoarConfig(shared_noise=False)]
    contents = [repr(address_content(config)) for config in (SoarConfig(), *controls)]
    assert len(set(contents)) == 3
    assert "off_path" not in contents[0]


def test_a_class_that_moves_keeps_its_address() -> None:
    moved = type("Elsewhere", (SoarConfig,), {"__module__": "my.package"})
    assert address_content(moved(aux_weight=0.5)) == address_content(SoarConfig(aux_weight=0.5))
    kinds = [type(config).kind for config in CONFIGS if hasattr(config, "kind")]
    # The laboratory's model is of the same family; its weights tell it apart.
    assert len(set(kinds)) == len(kinds) - 1


def test_the_content_of_a_set_is_its_address_wherever_it_lies(tmp_path: Path) -> None:
    contents = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        config = JsonlDataConfig(path=str(write_set(tmp_path / name))).with_content()
        contents.append(address_content(config))
    assert contents[0] == contents[1]
    assert JsonlDataConfig().with_content().content is None
