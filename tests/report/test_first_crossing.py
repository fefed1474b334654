import numpy as np
import pytest

from soarbench.report.numbers.thresholds import first_crossing


def at(values, threshold, **options):
    return float(first_crossing(np.array([values], float), np.array([threshold]), **options)[0])


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        ([0.0, 1.0, 2.0], 0.5, 0.5),
        ([0.0, 1.0, 2.0], 1.0, 1.0),
        ([0.0, 1.0, 2.0], 2.0, 2.0),
        ([3.0, 1.0], 2.0, 0.0),
        ([0.0, 4.0, 1.0, 4.0], 3.0, 0.75),
        ([0.0, 1.0], 1.1, np.inf),
        ([1.0], 0.5, 0.0),
        ([1.0], 1.5, np.inf),
    ],
)
def test_crossings_by_hand(values, threshold, expected):
    assert at(values, threshold) == expected


def test_a_metric_that_should_fall_is_the_mirror_image():
    curve = [3.0, 2.0, 0.5]
    assert at(curve, 1.0, higher_is_better=False) == at([-v for v in curve], -1.0)
    assert at(curve, 4.0, higher_is_better=False) == 0.0


def test_many_curves_at_once_equal_numpys_interpolation():
    rng = np.random.default_rng(0)
    curves = np.sort(rng.normal(size=(200, 6)), axis=1)
    thresholds = rng.uniform(curves[:, 0], curves[:, -1])
    expected = [np.interp(thresholds[i], curves[i], np.arange(6)) for i in range(200)]
    np.testing.assert_allclose(first_crossing(curves, thresholds), expected)
