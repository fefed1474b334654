"""What made a cell, and under which protocol it was judged."""

import json

import pytest

from soarbench.common.errors import StoreError
from soarbench.report.numbers.protocols import differing, refuse_unlike
from soarbench.report.text.frames import trace_numbers
from tests.report.folders import Folder, base, build_report, read_cells, write_cell, write_grid

PROTOCOL = {"num_inference_steps": 20, "guidance_scale": 3.0, "libraries": {"torch": "2.6"}}


def small(method="sft", **changes):
    return Folder(method=method, task="aesthetic", num_prompts=6, steps=(10,), **changes)


def write_protocol(folder, protocol, suite="drawbench", evaluator="aesthetic"):
    """Add to what a cell's protocol says; the facts about the judge stay."""
    path = folder / "protocols.json"
    packed = json.loads(path.read_text())
    stated = packed.get(f"{suite}.{evaluator}", {}).get("judge", {})
    packed[f"{suite}.{evaluator}"] = {"judge": stated, **protocol}
    path.write_text(json.dumps(packed))


def test_cells_whose_launches_nobody_kept_are_read(tmp_path):
    write_cell(tmp_path, small())
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
    cells = {cell.method: cell.tables.root for cell in read_cells(grid)[0]}
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


def test_scores_that_are_no_number_make_the_report_partial(tmp_path):
    lost = small("soar", unscored={"aesthetic": 5})
    grid = write_grid(tmp_path / "grid", [base(num_prompts=6), small(), lost])
    report = build_report(grid, tmp_path / "results", grid="grid")
    assert report.gaps == ("SOAR, Aesthetic: 5 images unscored (unreadable)",)
    assert "Partial report." in (report.folder / "index.html").read_text()
