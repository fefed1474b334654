"""Vendi score and LPIPS: known values, an independent reference, and weights that do not fit."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import alexnet

from evaluators.diversity.config import LpipsConfig, VendiConfig
from evaluators.diversity.measures import Lpips, vendi_score
from evaluators.weights import WeightsError
from soarbench.lab.diversity import LabVendiConfig
from soarbench.lab.judges import drawn_sample
from soarbench.lab.world.grammar import by_caption

WIDTHS = (64, 192, 384, 256, 256)


def picture(seed, side=64):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_vendi_score_counts_groups_of_equal_images(count):
    groups = torch.eye(5)[:count].repeat(3, 1)
    assert vendi_score(groups) == pytest.approx(count, abs=1e-6)


def test_the_vendi_score_by_hand_and_as_scipy_has_it():
    # Two unit vectors with cosine c: eigenvalues (1 + c) / 2 and (1 - c) / 2.
    pair = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert vendi_score(pair) == pytest.approx(np.exp(-0.8 * np.log(0.8) - 0.2 * np.log(0.2)))
    vectors = np.random.default_rng(0).normal(size=(6, 9))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    from scipy import stats

    shares = np.linalg.svd(vectors, compute_uv=False) ** 2 / 6
    expected = np.exp(stats.entropy(shares))
    assert vendi_score(torch.tensor(vectors)) == pytest.approx(expected)


def test_the_laboratorys_clip_tells_like_pictures_from_unlike_ones():
    measure = LabVendiConfig(device="cpu", batch_size=2).build()
    circle, *others = (
        drawn_sample(caption, by_caption()[caption]).image
        for caption in ("a red circle", "a blue star", "three hearts")
    )
    assert measure([circle] * 3) == pytest.approx(1.0, abs=1e-5)
    alike = measure([circle, circle.rotate(2), circle.rotate(-2)])
    assert 1 < alike < measure([circle, *others]) <= 3


def lpips_files(folder, seed=0):
    """Random weights in the two published layouts."""
    torch.manual_seed(seed)
    network = alexnet(weights=None)
    torch.save(network.state_dict(), folder / "alexnet.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate(WIDTHS)}
    torch.save(heads, folder / "alex.pth")
    return network.eval(), heads


def reference(network, heads, first, second):
    """LPIPS pixel by pixel in NumPy, on what hooks see behind each convolution."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = {}
    convolutions = [one for one in network.features if isinstance(one, torch.nn.Conv2d)]
    hooks = [
        conv.register_forward_hook(lambda *a, i=i: seen.__setitem__(i, a[2].clone()))
        for i, conv in enumerate(convolutions)
    ]
    sides = []
    for image in (first, second):
        pixels = (np.asarray(image, dtype=np.float64) / 255 - mean) / std
        with torch.no_grad():
            network(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32))
        sides.append([seen[i][0].clamp(min=0).numpy() for i in range(5)])
    for hook in hooks:
        hook.remove()
    total = 0.0
    for i, (one, other) in enumerate(zip(*sides, strict=True)):
        units = [x / (np.sqrt((x**2).sum(0, keepdims=True)) + 1e-10) for x in (one, other)]
        weights = heads[f"lin{i}.model.1.weight"].numpy()[0]
        total += (weights * (units[0] - units[1]) ** 2).sum(0).mean()
    return total


def test_lpips_is_the_papers_distance_averaged_over_pairs(tmp_path):
    network, heads = lpips_files(tmp_path)
    config = LpipsConfig(
        weights=str(tmp_path / "alexnet.pth"), head=str(tmp_path / "alex.pth"), device="cpu",
        batch_size=2,
    )  # fmt: skip
    measure, images = config.build(), [picture(seed) for seed in range(4)]
    pairs = list(itertools.combinations(images, 2))
    expected = np.mean([reference(network, heads, *pair) for pair in pairs])
    assert measure(images) == pytest.approx(expected, rel=1e-4)
    assert measure(images[::-1]) == pytest.approx(expected, rel=1e-4)
    assert measure([images[0]] * 2) == 0.0


def test_weights_that_do_not_fit_are_named(tmp_path):
    lpips_files(tmp_path)
    cpu, good = torch.device("cpu"), tmp_path / "alexnet.pth"
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"holds lin0\.model\.1\.weight; give alex\.pth"):
        Lpips(good, tmp_path / "half.pth", batch_size=1, device=cpu)
    with pytest.raises(WeightsError, match="another shape than the model"):
        Lpips(tmp_path / "alex.pth", tmp_path / "alex.pth", batch_size=1, device=cpu)
    with pytest.raises(WeightsError, match=r"weights=.*nowhere"):
        VendiConfig(weights=str(tmp_path / "nowhere"), device="cpu").build()


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="needs both files, or neither"):
        LpipsConfig(weights="alexnet.pth")
    with pytest.raises(ValueError, match="weights is empty"):
        VendiConfig(weights="")
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        VendiConfig(batch_size=0)


def test_other_weights_are_another_measure_and_another_place_is_not(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    one, other, same = (
        VendiConfig(weights=str(tmp_path / name)).identity() for name in ("a", "b", "c")
    )
    assert one == same
    assert one != other
    assert VendiConfig(weights=str(tmp_path / "a"), device="cpu", batch_size=1).identity() == one
