"""Every method trains every family beside SD3, on tiny weights of the published classes."""

import copy

import pytest
import torch

from baselines.loop.checkpoints import snapshot_path
from soarbench.models.adapters import apply_adapter
from tests.baselines.toys import Logs
from tests.models.families import FAMILIES, METHODS, PROMPTS, train

#: How a method goes on does not depend on the family; these show that nothing of a model is left
#: out of a checkpoint: of one that trains on rows, and of one with an old policy beside it.
INTERRUPTED = ("soar", "diffusion_nft")
#: Layers of an adapter that nothing depends on: what the last layer makes of a text is thrown away.
UNUSED = {"qwen_image": {"add_q_proj", "to_add_out"}}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def velocity(family, transformer=None):
    sigma = torch.tensor([0.3, 0.7])
    with torch.no_grad():
        condition = family.model.encode_prompts(PROMPTS)
        return family.model.velocity(transformer)(family.noise, sigma, condition)


def moved(family, weights):
    """Names of weights that are not the base's: layers of an adapter, or the model's own."""
    base = family.model.transformer.state_dict()
    return {
        key for key, value in weights.items()
        if ("lora_B" in key and value.any()) or (key in base and not torch.equal(value, base[key]))
    }  # fmt: skip


def targets(family):
    """Layers of the base that an adapter of the family sits at, and that move."""
    names = [name for name, _ in family.model.transformer.named_modules()]
    places = [name for name in names if name.endswith(family.config.lora_targets)]
    unused = UNUSED.get(family.config.kind, set())
    last = f".{family.config.architecture().layers[0] - 1}."
    return [name for name in places if not (last in name and name.split(".")[-1] in unused)]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_it_and_an_interruption_changes_no_bit(family, tmp_path, name):
    trained = train(family, name, tmp_path / "straight")
    weights = trained.state_dict()
    if name in INTERRUPTED:
        with pytest.raises(KeyboardInterrupt):
            train(family, name, tmp_path / "cut", logs=Logs(stop_at=2))
        resumed = train(family, name, tmp_path / "cut").state_dict()
        assert all(torch.equal(value, resumed[key]) for key, value in weights.items())
    if METHODS[name][1] is not None:
        assert len(moved(family, weights)) == len(targets(family)) >= 8
    else:
        # Some weights have no part in so small an input.
        assert len(moved(family, weights)) >= 0.8 * len(weights)
    # As weights that others give: an adapter or a transformer in a folder.
    loaded = copy.deepcopy(family.model.transformer)
    apply_adapter(loaded, str(snapshot_path(tmp_path / "straight", 2)), base="tiny")
    ours = velocity(family, trained)
    assert not torch.allclose(ours, velocity(family), rtol=0, atol=1e-3)
    torch.testing.assert_close(velocity(family, loaded), ours, rtol=0, atol=1e-5)
