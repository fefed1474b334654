import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soarbench.common.errors import StoreError
from soarbench.report.numbers.diagnostics import (
    QUANTITIES,
    diagnostic_points,
    gaps,
    image_statistics,
    unmeasured,
)
from tests.report.diagnosed import write_diagnostics
from tests.report.folders import (
    Folder,
    base,
    build_report,
    data_key,
    read_cells,
    table_file,
    write_grid,
)

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


def with_value(cells, method, name, column, value):
    """The cells, one of a method with another first value in a table of diagnostics."""
    place = next(i for i, cell in enumerate(cells) if cell.method == method)
    path = table_file(cells[place].tables.root, name, "" if name == "images" else KEY)
    frame = pq.read_table(path).to_pandas()
    frame.loc[0, column] = value
    # Not from pandas, of which a nan becomes a null.
    pq.write_table(pa.table({key: pa.array(frame[key].to_numpy()) for key in frame}), path)
    return cells[place].cell_id


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_left_out_and_named(grid, value):
    cells = read_cells(grid)[0]
    before = points(grid)
    assert gaps(cells, "aesthetic") == []
    cell_id = with_value(cells, "soar", "images", "brightness", value)
    with_value(cells, "soar", "norms", "norm", value)
    with_value(cells, "base", "norms", "norm", value)
    names = ("image statistics", "velocity norms", "velocity norms")
    lines = gaps(cells, "aesthetic")
    assert [line.partition(": ")[2] for line in lines] == [
        "1 values are not finite, and are left out"
    ] * 3
    assert [line.partition(": ")[0].partition(", ")[2] for line in lines] == list(names)
    assert sum(line.startswith(cell_id) for line in lines) == 2
    after = points(grid)
    for place, point in after.items():
        assert np.isfinite([point.value, point.low, point.high]).all()
        if place[0] == "velocity_norm":
            assert point.value == pytest.approx(before[place].value)
            assert point.num_prompts == before[place].num_prompts - 1


def remove(cells, *names):
    for cell in cells:
        for name in names:
            table_file(cell.tables.root, name, "" if name == "images" else KEY).unlink()


def test_what_other_cells_have_is_missing_and_what_none_has_is_not(grid):
    cells = read_cells(grid)[0]
    one = next(cell for cell in cells if cell.method == "soar" and cell.seed == 1)
    remove([one], "images", "exposure")
    places = [line.partition(":")[0] for line in gaps(cells, "aesthetic")]
    assert places == [f"{one.cell_id}, image statistics", f"{one.cell_id}, exposure bias"]
    # As of runs and exports without diagnostics, whose base another grid may have measured.
    others = [cell for cell in cells if not cell.is_base and cell is not one]
    remove(others, "images", "exposure")
    assert gaps(cells, "aesthetic") == []


def test_a_base_without_what_its_methods_have_is_a_gap(grid):
    cells = read_cells(grid)[0]
    [own] = [cell for cell in cells if cell.is_base]
    remove([own], "norms")
    [line] = gaps(cells, "aesthetic")
    assert line.startswith(f"{own.cell_id}, velocity norms: not measured, though other cells are")


def test_seeds_that_were_not_diagnosed_make_a_report_partial(grid, tmp_path):
    assert not build_report(grid, tmp_path, grid="grid").gaps
    one = next(cell for cell in read_cells(grid)[0] if cell.method == "soar")
    remove([one], "exposure")
    [line] = build_report(grid, tmp_path, grid="grid").gaps
    assert line in (tmp_path / "grid" / "table.md").read_text().partition("## Task")[0]
