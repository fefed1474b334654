import dataclasses

import numpy as np
import pytest

from soarbench.common.errors import StoreError
from soarbench.report.numbers.diagnostics import (
    QUANTITIES,
    diagnostic_points,
    image_statistics,
    unmeasured,
)
from tests.report.diagnosed import write_diagnostics
from tests.report.folders import Folder, base, data_key, read_cells, table_file, write_grid

SMALL = {"num_prompts": 10, "steps": (50, 100)}
KEY = data_key("aesthetic")
PROMPTS = np.array([f"drawbench-{prompt:05d}" for prompt in range(10)])


@pytest.fixture
def grid(tmp_path):
    cells = [base(num_prompts=10)]
    cells += [
        Folder(method=method, task="aesthetic", seed=seed, **SMALL)
        for method in ("soar", "flow_grpo") for seed in (0, 1)
    ]  # fmt: skip
    folder = write_grid(tmp_path / "grid", cells)
    for cell in cells:
        write_diagnostics(folder, cell, ("aesthetic",))
    return folder


def all_points(cells):
    statistics = image_statistics(cells, "aesthetic", PROMPTS)
    return diagnostic_points(cells, "aesthetic", statistics)


def points(grid):
    found = all_points(read_cells(grid)[0])
    return {(point.metric, point.method, point.step): point for point in found}


def test_every_quantity_has_a_point_a_method_and_step(grid):
    found = points(grid)
    assert {metric for metric, _, _ in found} == set(QUANTITIES)
    assert len(found) == len(QUANTITIES) * (1 + 2 * 2)
    point = found["brightness", "flow_grpo", 100]
    # mean of p / 1000 over ten prompts is 0.0045; the base's other suites are not in it
    assert point.value == pytest.approx(0.4 + 0.0045 + 0.1)
    assert found["brightness", "base", 0].value == pytest.approx(0.4045)
    assert point.low < point.value < point.high
    assert (point.num_prompts, point.num_seeds) == (10, 2)
    assert found["diversity", "soar", 50].value == pytest.approx(0.3 - 0.01)
    assert found["entropy", "flow_grpo", 50].value == pytest.approx(5.5)


def test_the_norm_is_relative_to_the_base_on_the_same_image(grid):
    found = points(grid)
    for step in (50, 100):
        point = found["velocity_norm", "flow_grpo", step]
        assert point.value == pytest.approx(1 + step / 100 / 20)
        # The ratio is the same for all images, though their norms are not.
        assert point.high - point.low < 1e-9
    base_point = found["velocity_norm", "base", 0]
    assert (base_point.low, base_point.value, base_point.high) == (1.0, 1.0, 1.0)


def test_without_the_base_there_is_no_ratio(grid):
    cells = [cell for cell in read_cells(grid)[0] if not cell.is_base]
    assert {p.metric for p in all_points(cells)} == (set(QUANTITIES) - {"velocity_norm"})


def test_unmeasured_cells_are_named_and_left_out(grid):
    cells = read_cells(grid)[0]
    assert unmeasured(cells, "aesthetic") == []
    one = next(cell for cell in cells if cell.method == "soar" and cell.seed == 1)
    table_file(one.tables.root, "images").unlink()
    assert unmeasured(cells, "aesthetic") == [one.cell_id]
    found = points(grid)
    assert found["entropy", "soar", 50].num_seeds == 1
    assert found["velocity_norm", "soar", 50].num_seeds == 2


def test_the_base_on_other_data_is_no_partner(grid):
    cells = read_cells(grid)[0]
    base_cell = next(cell for cell in cells if cell.is_base)
    path = table_file(base_cell.tables.root, "norms", KEY)
    path.rename(table_file(base_cell.tables.root, "norms", data_key("other")))
    assert unmeasured(cells, "aesthetic") == [base_cell.cell_id]


def test_cells_of_unlike_data_are_refused(grid):
    cells = read_cells(grid)[0]
    unlike = {**cells[-1].description, "data_key": data_key("other")}
    other = dataclasses.replace(cells[-1], description=unlike)
    with pytest.raises(StoreError, match="trained on different data; report with the overrides"):
        unmeasured([*cells[:-1], other], "aesthetic")
