import pytest

from soarbench.common.errors import ConfigError
from soarbench.grid import addresses
from soarbench.grid.checkpoint_rule import problem_with
from soarbench.grid.expand import expand
from soarbench.report.numbers.checkpoints import marked_steps
from soarbench.report.numbers.panels import build_panels
from tests.report.folders import Folder, base, read_cells, write_grid

JUDGED = {"aesthetic": {"aesthetic", "clipscore", "oracle_aesthetic"}}
TRAINED = {"aesthetic": {"aesthetic"}}


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("last", None),
        ("best:clipscore", None),
        ("first", "must be last, or best:NAME"),
        ("best:", "must be last, or best:NAME"),
        ("best:oracle_aesthetic", "nobody has an oracle to choose by"),
        ("best:aesthetic", "trains on 'aesthetic', so the best step would be the most gamed one"),
        ("best:ocr", "no suite of task 'aesthetic' is judged by 'ocr'; add it"),
    ],
)
def test_rules_that_choose_what_was_gamed_are_refused(rule, told):
    problem = problem_with(rule, JUDGED, TRAINED, {"oracle_aesthetic"})
    if told is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.startswith(f"grid.checkpoint_rule={rule}: ")
        assert told in problem
        assert "\n" not in problem


def test_a_rule_is_checked_before_anything_is_loaded_and_changes_no_address(overrides):
    with pytest.raises(ConfigError, match="trains on 'aesthetic'"):
        expand([*overrides, "grid.checkpoint_rule=best:aesthetic"])
    words = [
        *overrides, "task=aesthetic", "grid.tasks=[aesthetic]",
        "suites.drawbench.judges=[aesthetic,oracle_aesthetic,clipscore]",
    ]  # fmt: skip
    chosen = expand([*words, "grid.checkpoint_rule=best:clipscore"])
    assert chosen.settings.grid.checkpoint_rule == "best:clipscore"
    ids = [[addresses.cell_id(cell) for cell in grid.cells] for grid in (chosen, expand(words))]
    assert ids[0] == ids[1]


@pytest.fixture(scope="module")
def panels(tmp_path_factory):
    """The trained score always rises; the held-out one is best in the middle, or only falls."""
    metrics = ("aesthetic", "clipscore")
    cells = [base(num_prompts=12)]
    for method, gain in (("sft", 3.0), ("soar", -3.0)):
        gains = {"aesthetic": 2.0, "clipscore": gain}
        cells += [
            Folder(
                method=method, task="aesthetic", seed=seed, metrics=metrics, gains=gains,
                num_prompts=12,
            )
            for seed in (0, 1)
        ]  # fmt: skip
    grid = write_grid(tmp_path_factory.mktemp("store") / "grid", cells)
    return build_panels(read_cells(grid)[0])[0]


def test_last_is_the_last_step_of_each_method(panels):
    assert marked_steps("last", panels, "aesthetic") == {"base": 0, "sft": 150, "soar": 150}


def test_best_asks_the_named_evaluator_alone(panels):
    assert marked_steps("best:clipscore", panels, "aesthetic") == {
        "base": 0, "sft": 150, "soar": 50,
    }  # fmt: skip
    assert marked_steps("best:ocr", panels, "aesthetic") == {}
    assert marked_steps("best:clipscore", panels, "alignment") == {}
