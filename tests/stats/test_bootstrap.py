import numpy as np

from soarbench.stats.bootstrap import prompt_weights


def test_weights_draw_one_fewer_than_there_are_in_every_stratum():
    strata = np.array([0] * 10 + [1] * 4 + [2])
    weights = prompt_weights(strata, 500, np.random.default_rng(0))
    assert (weights[:, :10].sum(1) == 9).all()
    assert (weights[:, 10:14].sum(1) == 3).all()
    assert (weights[:, 14] == 1).all()
