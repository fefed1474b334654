import numpy as np
import pytest
from PIL import Image
from scipy import stats

from soarbench.diagnostics.image_statistics import (
    STATISTICS,
    brightness,
    diversity,
    edge_density,
    entropy,
    luma,
    pixels_of,
    saturation,
)


def flat(red, green, blue, side=8):
    return np.broadcast_to(np.array([red, green, blue], dtype=float), (side, side, 3))


def photo(seed=0, side=64):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


def test_pixels_are_rgb_in_0_to_1_whatever_the_mode():
    assert pixels_of(Image.new("L", (2, 3), 51)).tolist() == flat(0.2, 0.2, 0.2)[:3, :2].tolist()
    assert pixels_of(Image.new("RGBA", (1, 1), (255, 0, 0, 9))).tolist() == [[[1.0, 0.0, 0.0]]]


def test_luma_of_the_primaries_by_hand_and_of_pictures_as_pillow_has_it():
    assert luma(flat(1, 0, 0, 1)).item() == pytest.approx(0.299)
    assert luma(flat(0, 1, 0, 1)).item() == pytest.approx(0.587)
    assert luma(flat(0, 0, 1, 1)).item() == pytest.approx(0.114)
    image = photo()
    pillow = np.asarray(image.convert("L"), dtype=float)
    # Pillow rounds to whole levels.
    assert np.abs(luma(pixels_of(image)) * 255 - pillow).max() <= 1.0


@pytest.mark.parametrize("levels", [1, 2, 4, 16])
def test_entropy_of_equally_frequent_levels_is_their_logarithm(levels):
    column = np.linspace(0, 1, levels).repeat(64 // levels)
    picture = np.broadcast_to(column[:, None, None], (64, 8, 3))
    assert entropy(picture) == pytest.approx(np.log2(levels), abs=1e-12)


def test_entropy_is_scipys_of_the_histogram():
    pixels = pixels_of(photo())
    counts = np.bincount(np.round(luma(pixels) * 255).astype(int).ravel())
    assert entropy(pixels) == pytest.approx(stats.entropy(counts, base=2), abs=1e-12)


def test_edge_density_counts_the_two_columns_beside_a_step():
    picture = np.zeros((10, 10, 3))
    picture[:, 5:] = 1.0
    assert edge_density(picture) == pytest.approx(2 / 10)
    assert edge_density(np.swapaxes(picture, 0, 1)) == pytest.approx(2 / 10)
    assert edge_density(flat(0.3, 0.6, 0.9)) == 0.0


def test_a_slope_is_an_edge_from_its_threshold_on():
    # The central difference of a ramp is its slope a pixel; at the border it is half of it.
    def ramp(slope):
        return np.broadcast_to((np.arange(9) * slope)[None, :, None], (9, 9, 3))

    assert edge_density(ramp(0.09)) == 0.0
    assert edge_density(ramp(0.11)) == pytest.approx(7 / 9)


def test_saturation_by_hand_and_as_colorsys_has_it():
    import colorsys

    assert saturation(flat(0.5, 0.5, 0.5)) == 0.0
    assert saturation(flat(0, 0, 0)) == 0.0
    assert saturation(flat(1, 0, 0)) == 1.0
    assert saturation(flat(0.8, 0.2, 0.4)) == pytest.approx(0.75)
    pixels = pixels_of(photo(side=8))
    by_pixel = [colorsys.rgb_to_hsv(*pixel)[1] for pixel in pixels.reshape(-1, 3)]
    assert saturation(pixels) == pytest.approx(np.mean(by_pixel))


def test_brightness_is_the_mean_luma():
    half = np.concatenate([flat(0, 0, 0), flat(1, 1, 1)])
    assert brightness(half) == pytest.approx(0.5)


def test_diversity_is_the_mean_distance_of_pairs():
    black, grey, white = (Image.new("RGB", (64, 64), (v, v, v)) for v in (0, 102, 255))
    assert diversity([black, black, black]) == 0.0
    assert diversity([black, white]) == pytest.approx(1.0)
    # pairs: 0.4, 1.0 and 0.6
    assert diversity([black, grey, white]) == pytest.approx(2.0 / 3)
    assert diversity([white, black, grey]) == pytest.approx(2.0 / 3)


def test_diversity_sees_composition_and_not_grain():
    def grainy(seed):
        grain = np.random.default_rng(seed).choice([-60, 60], (256, 256, 3))
        return Image.fromarray((128 + grain).astype(np.uint8))

    left = np.zeros((256, 256, 3), dtype=np.uint8)
    left[:, :128] = 255
    assert diversity([grainy(1), grainy(2)]) < 0.06
    assert diversity([Image.fromarray(left), Image.fromarray(left[:, ::-1])]) == pytest.approx(1)


def test_one_image_has_no_diversity():
    with pytest.raises(ValueError, match="needs 2 images of a prompt, got 1"):
        diversity([photo()])


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_ignores_where_things_are(name):
    measure = STATISTICS[name]
    pixels = pixels_of(photo())
    assert measure(pixels) == pytest.approx(measure(pixels[::-1, ::-1]))
