"""Older and newer stores, and what made a cell."""

import json
import shutil

import pytest

from soarbench.common.errors import StoreError, packed_protocols, read_cell
from soarbench.common.provenance import STORE_VERSION
from soarbench.report.numbers.protocols import differing, refuse_unlike
from soarbench.report.text.frames import trace_numbers
from tests.report.folders import Folder, base, build_report, read_cells, write_cell, write_grid

PROTOCOL = {"num_inference_steps": 20, "guidance_scale": 3.0, "libraries": {"torch": "2.6"}}


def small(method="sft", **changes):
    return Folder(method=method, task="aesthetic", num_prompts=6, steps=(10,), **changes)


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_protocol(folder, protocol, suite="drawbench", evaluator="aesthetic"):
    """Add to what a cell's protocol says; the facts about the judge stay."""
    path = folder / "protocols.json"
    packed = json.loads(path.read_text())
    stated = packed.get(f"{suite}.{evaluator}", {}).get("judge", {})
    packed[f"{suite}.{evaluator}"] = {"judge": stated, **protocol}
    path.write_text(json.dumps(packed))


def test_a_store_of_a_newer_version_is_one_clear_line(tmp_path):
    folder = write_cell(tmp_path, small())
    change_json(folder / "config.json", version=STORE_VERSION + 1)
    with pytest.raises(
        StoreError, match=f"store version {STORE_VERSION + 1}.*reads 1 to"
    ) as caught:
        read_cells(tmp_path)
    assert "\n" not in str(caught.value)


def test_cells_without_a_version_are_of_the_first_and_are_read(tmp_path):
    folder = write_cell(tmp_path, small())
    assert "version" not in json.loads((folder / "config.json").read_text())
    (cell,), _ = read_cells(tmp_path)
    assert cell.launches == ()
    (line,) = trace_numbers([cell]).to_dict("records")
    assert line["command"] == line["git_commit"] == "unknown"
    assert line["mlflow_run_id"] == f"run-{cell.cell_id}"


def test_every_command_that_worked_on_a_cell_has_a_line(tmp_path):
    folder = write_cell(tmp_path, small())
    launches = [
        {"command": f"python -m soarbench run seeds=[{i}]", "git_commit": f"abc{i}"} for i in (0, 1)
    ]
    (folder / "launches.json").write_text(json.dumps({"launches": launches}))
    (cell,), _ = read_cells(tmp_path)
    lines = trace_numbers([cell]).to_dict("records")
    assert [line["command"] for line in lines] == [one["command"] for one in launches]
    assert [line["git_commit"] for line in lines] == ["abc0", "abc1"]
    assert lines[0]["python"] == "unknown"


def test_damaged_launches_are_named(tmp_path):
    folder = write_cell(tmp_path, small())
    (folder / "launches.json").write_text(json.dumps({"launches": "none"}))
    with pytest.raises(StoreError, match="another version"):
        read_cells(tmp_path)


def test_protocols_are_the_same_from_parts_and_packed(tmp_path):
    folder = write_cell(tmp_path, small())
    (folder / "protocols.json").unlink()
    part = folder / "scores" / "step-000010" / "drawbench.aesthetic.json"
    part.parent.mkdir(parents=True)
    part.write_text(json.dumps({"aggregate": {}, "protocol": PROTOCOL}))
    stored = read_cell(folder).protocols()
    assert stored == {("drawbench", "aesthetic"): PROTOCOL}
    (folder / "protocols.json").write_text(json.dumps(packed_protocols(stored)))
    shutil.rmtree(folder / "scores")
    assert read_cell(folder).protocols() == stored
    (folder / "protocols.json").unlink()
    assert read_cell(folder).protocols() == {}


def test_differences_name_nested_fields_and_both_values():
    other = {**PROTOCOL, "guidance_scale": 4.5, "libraries": {"torch": "2.7"}, "shift": 3.0}
    assert differing(PROTOCOL, other) == [
        "guidance_scale: 3.0 against 4.5",
        'libraries.torch: "2.6" against "2.7"',
        "shift: nothing against 3.0",
    ]
    assert differing(PROTOCOL, dict(PROTOCOL)) == []


def test_a_report_of_unlike_protocols_names_the_field(tmp_path):
    grid = write_grid(tmp_path / "grid", [base(num_prompts=6), small(), small("soar")])
    cells = {cell.method: cell.folder for cell in read_cells(grid)[0]}
    write_protocol(cells["sft"], PROTOCOL)
    write_protocol(cells["soar"], PROTOCOL)
    write_protocol(cells["base"], PROTOCOL)
    refuse_unlike(read_cells(grid)[0])
    write_protocol(cells["soar"], {**PROTOCOL, "guidance_scale": 4.5})
    with pytest.raises(StoreError, match=r"guidance_scale: 3\.0 against 4\.5") as caught:
        build_report(grid, tmp_path / "results", grid="grid")
    assert "\n" not in str(caught.value)
    write_protocol(cells["soar"], PROTOCOL)
    write_protocol(cells["base"], {**PROTOCOL, "shift": 3.0})
    with pytest.raises(StoreError, match="base-seed0"):
        refuse_unlike(read_cells(grid)[0])
    # The base judges suites that a task does not have; those concern nobody.
    write_protocol(cells["base"], PROTOCOL)
    write_protocol(cells["base"], {**PROTOCOL, "shift": 3.0}, suite="geneval")
    refuse_unlike(read_cells(grid)[0])


@pytest.mark.parametrize("name", ["scores.parquet", "training.parquet"])
def test_an_artifact_that_is_missing_or_damaged_is_named(tmp_path, name):
    grid = write_grid(tmp_path / "grid", [base(num_prompts=6), small(), small("soar")])
    path = next(grid.glob(f"cells/soar-*/{name}"))
    path.write_bytes(b"no parquet")
    with pytest.raises(StoreError, match=f"{name} is damaged") as caught:
        build_report(grid, tmp_path / "results", grid="grid")
    assert "\n" not in str(caught.value)
    if name == "scores.parquet":
        path.unlink()
        with pytest.raises(StoreError, match=f"{name} is missing"):
            build_report(grid, tmp_path / "results", grid="grid")


def test_scores_that_are_no_number_make_the_report_partial(tmp_path):
    lost = small("soar", unscored={"aesthetic": 5})
    grid = write_grid(tmp_path / "grid", [base(num_prompts=6), small(), lost])
    report = build_report(grid, tmp_path / "results", grid="grid")
    assert report.gaps == ("SOAR, Aesthetic: 5 images unscored (unreadable)",)
    assert "Partial report." in (report.folder / "index.html").read_text()
