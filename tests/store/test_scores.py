import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soarbench.common.errors import StoreError
from soarbench.report.numbers.panels import Run, build_panels
from soarbench.store.cells import finished_and_holes
from tests.report.folders import (
    Folder,
    base,
    cells_of,
    main_table,
    read_cells,
    write_cell,
    write_grid,
)


def small(method="sft", **changes):
    settings = {"steps": (10,), "num_prompts": 6} | changes
    return Folder(method=method, task="aesthetic", **settings)


def edit_scores(folder, change):
    table = pq.read_table(folder / "scores.parquet")
    pq.write_table(change(table), folder / "scores.parquet")


def test_a_cell_is_read_as_it_was_written(tmp_path):
    cell = small("soar", seed=3)
    write_cell(tmp_path, cell)
    (found,), holes = read_cells(tmp_path)
    assert (found.cell_id, found.method, found.task, found.seed) == (
        cell.cell_id, "soar", "aesthetic", 3,
    )  # fmt: skip
    assert found.steps == (10,)
    assert found.budget["forward_equivalents"] == 32 * 10 * 9
    assert not holes
    scores = {one.evaluator: one for one in found.scores()}
    assert set(scores) == {"aesthetic", "oracle_aesthetic"}
    assert scores["aesthetic"].values.shape == (12,)
    assert scores["aesthetic"].prompts[:3].tolist() == ["drawbench-00000"] * 2 + ["drawbench-00001"]
    steps, counted = found.training()["images_seen"]
    assert steps.tolist() == [10]
    assert counted.tolist() == [320]


def test_rows_may_come_in_any_order(tmp_path):
    folder = write_cell(tmp_path, small())
    (cell,), _ = read_cells(tmp_path)
    before = cell.scores()
    edit_scores(
        folder, lambda table: table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    )
    for one, other in zip(before, cell.scores(), strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.prompts.tolist() == other.prompts.tolist()


def test_unfinished_cells_are_holes_with_their_reason(tmp_path):
    cells = [small(), small("soar", state="failed", reason="reward gave NaN"),
             small("flow_grpo", state="running")]  # fmt: skip
    found, holes = read_cells(write_grid(tmp_path, cells))
    assert [cell.method for cell in found] == ["sft"]
    assert {hole.method: hole.reason for hole in holes} == {
        "soar": "failed: reward gave NaN",
        "flow_grpo": "running",
    }


def test_two_configurations_of_one_cell_are_refused(tmp_path):
    write_grid(tmp_path, [small(), small(suffix="old")])
    with pytest.raises(StoreError, match="different configurations"):
        read_cells(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_finished_is_one_clear_line(tmp_path, exists):
    if exists:
        write_cell(tmp_path, small(state="failed", reason="out of memory"))
    stored = cells_of(tmp_path) if exists else []
    with pytest.raises(StoreError, match="holds no finished cell") as caught:
        finished_and_holes(stored, str(tmp_path))
    assert ("out of memory" in str(caught.value)) == exists
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "run the grid first" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop_columns("fingerprint"), "no column fingerprint"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "more than once"),
    ],
    ids=["old", "repeated"],
)
def test_scores_that_mean_nothing_are_named(tmp_path, damage, message):
    folder = write_cell(tmp_path, small())
    edit_scores(folder, damage)
    (cell,), _ = read_cells(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        cell.scores()
    assert cell.cell_id in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_training_log_is_empty(tmp_path):
    folder = write_cell(tmp_path, small())
    (folder / "training.parquet").unlink()
    (cell,), _ = read_cells(tmp_path)
    assert cell.training() == {}


def test_panels_align_all_methods_and_share_the_base(tmp_path):
    cells, _ = read_cells(write_grid(tmp_path, [base(num_prompts=6), small(), small("soar")]))
    panels, holes = build_panels(cells)
    assert not holes
    panel = panels["aesthetic", "aesthetic"]
    assert set(panels) == {("aesthetic", "aesthetic"), ("aesthetic", "oracle_aesthetic")}
    assert panel.methods == ["base", "sft", "soar"]
    assert panel.steps("base") == [0]
    assert panel.steps("soar") == [10]
    assert {values.shape for values in panel.values.values()} == {(12,)}
    assert panel.strata is None


def test_unlike_fingerprints_are_refused_for_the_evaluator_that_has_them(tmp_path):
    write_grid(tmp_path, [small(), small("soar", fingerprint="beef")])
    cells, _ = read_cells(tmp_path)
    with pytest.raises(StoreError, match="2 protocols") as caught:
        build_panels(cells)
    assert "f00d-aesthetic in sft-" in str(caught.value)
    assert "beef-aesthetic in soar-" in str(caught.value)


def test_two_suites_of_one_evaluator_are_refused(tmp_path):
    folder = write_cell(tmp_path, small())

    def renamed(table):
        suites = ["other" if row % 2 else "drawbench" for row in range(len(table))]
        return table.set_column(table.column_names.index("suite"), "suite", pa.array(suites))

    edit_scores(folder, renamed)
    cells, _ = read_cells(tmp_path)
    with pytest.raises(StoreError, match="different suites in task 'aesthetic': drawbench, other"):
        build_panels(cells)


def test_the_base_is_compared_on_the_suite_of_the_task(tmp_path):
    """The base is judged for all tasks at once, so perhaps by one evaluator on two suites."""
    folder = write_cell(tmp_path, base(num_prompts=6))
    write_cell(tmp_path, small())

    def doubled(table):
        column = table.column_names.index("suite")
        other = table.set_column(column, "suite", pa.array(["other"] * len(table)))
        return pa.concat_tables([other, table])

    edit_scores(folder, doubled)
    panels, holes = build_panels(read_cells(tmp_path)[0])
    assert not holes
    assert panels["aesthetic", "aesthetic"].suite == "drawbench"
    assert panels["aesthetic", "aesthetic"].runs("base", 0) == [Run("base", 0, 0)]


def test_scores_that_do_not_cover_the_plan_are_holes(tmp_path):
    cells = [small(seed=seed, steps=(10, 20)) for seed in range(4)]
    folders = [write_cell(tmp_path, cell) for cell in cells]
    edit_scores(folders[1], lambda table: table.slice(1))
    edit_scores(folders[2], lambda table: table.filter(pa.compute.field("step") == 20))

    def renamed(table):
        prompts = [name.replace("00003", "00099") for name in table.column("prompt_id").to_pylist()]
        column = table.column_names.index("prompt_id")
        return table.set_column(column, "prompt_id", pa.array(prompts))

    edit_scores(folders[3], renamed)
    panels, holes = build_panels(read_cells(tmp_path)[0])
    told = {(hole.seed, hole.reason) for hole in holes if hole.evaluator == "aesthetic"}
    assert told == {
        (1, "scored 11 of 12 images at step 10"),
        (2, "no scores at step 10"),
        (3, "scored other images at step 10 than the other cells"),
    }
    assert panels["aesthetic", "aesthetic"].runs("sft", 10) == [Run("sft", 0, 10)]


def test_a_macro_mean_takes_its_strata_from_the_details(tmp_path):
    cells, _ = read_cells(write_grid(tmp_path, main_table(num_prompts=12, unscored={"geneval": 2})))
    panels, _ = build_panels(cells)
    panel = panels["general", "geneval"]
    assert len(set(panel.strata.tolist())) == 6
    assert panel.scores("soar", 150).num_strata == 6
    assert panels["general", "ocr"].strata is None
    # The two images of the first prompt failed, and a failed measurement has no details.
    assert len(cells[0].tags("geneval")) == 11


def test_a_macro_mean_without_tags_is_refused(tmp_path):
    (folder, *_) = [write_cell(tmp_path, cell) for cell in main_table(num_prompts=12)[1:2]]

    def untagged(table):
        column = table.column_names.index("details")
        return table.set_column(column, "details", pa.array(["{}"] * len(table)))

    edit_scores(folder, untagged)
    with pytest.raises(StoreError, match="no 'tag'"):
        build_panels(read_cells(tmp_path)[0])
