"""A record is whole at any moment, and its table is made again from it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from soarbench.benchmarks.gpu import bench, laboratory
from soarbench.benchmarks.gpu.bench import GpuBenchOptions, bench_gpu, run_worker
from soarbench.benchmarks.gpu.measurements import MEASUREMENTS, Measurement
from soarbench.benchmarks.gpu.record import Record, file_name, write_table
from soarbench.benchmarks.gpu.worker import KINDS, measure
from soarbench.common.errors import UserError
from soarbench.planning.demand import PlanOptions, read_request

ROOT = Path(__file__).parents[3]
LAB = ["device=cpu", "model=lab", "training.mixed_precision=no"]
FACTS = {"device": "cuda", "name": "NVIDIA T1000", "torch": "2.9", "commit": "abc", "date": "today"}


def record_of(folder: Path, **facts: str) -> Record:
    return Record(folder / file_name("NVIDIA T1000"), FACTS | facts)


def test_a_run_that_is_cut_off_leaves_what_it_had(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    record.expect(["sft, adapter", "judges"])
    record.enter("sft, adapter", "measured", values={"seconds": 0.5, "peak_over_plan": 1.01})
    again = Record.read(tmp_path / "nvidia-t1000.json")
    assert again.entries["sft, adapter"]["values"]["seconds"] == 0.5
    assert again.entries["judges"]["state"] == "not measured"
    text = write_table(tmp_path)
    assert "| sft, adapter | 0.500 | - |" in text
    assert "- judges: not measured (the run was cut off before it)" in text


def test_an_option_is_set_against_what_it_changes(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    record.enter("sft, adapter", "measured", values={"seconds": 0.5})
    record.enter("sft, compiled", "measured", values={"seconds": 0.4})
    assert "| 1.25 x sft, adapter |" in write_table(tmp_path)


def test_a_cpu_is_no_gpu_in_the_table(tmp_path: Path) -> None:
    record = record_of(tmp_path, device="cpu")
    record.enter("sft, adapter", "measured", values={"seconds": 0.5})
    assert "No GPU has been measured yet" in write_table(tmp_path)


def test_the_published_table_is_that_of_the_published_records(tmp_path: Path) -> None:
    folder = ROOT / "results/gpu"
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert write_table(tmp_path) == (folder / "README.md").read_text()


def test_measurements_are_named_once_and_compared_with_earlier_ones() -> None:
    names = [measurement.name for measurement in MEASUREMENTS]
    assert len(set(names)) == len(names)
    for place, measurement in enumerate(MEASUREMENTS):
        assert not measurement.compared_with or measurement.compared_with in names[:place]


def printing(tmp_path: Path, *lines: str) -> mock._patch[str]:
    """A worker that runs these lines of Python."""
    script = tmp_path / "worker"
    script.write_text("\n".join([f"#!{sys.executable}", *lines]))
    script.chmod(0o755)
    return mock.patch.object(bench.sys, "executable", str(script))


ONE = Measurement(name="one", kind="training")


def test_a_worker_that_takes_too_long_is_ended_and_its_numbers_stay(tmp_path: Path) -> None:
    lines = ["import time; print('{\"seconds\": 1}', flush=True)", "time.sleep(60)"]
    with printing(tmp_path, *lines):
        state, reason, values = run_worker(ONE, [], 5)
    assert (state, reason, values) == ("failed", "ended after 5 s", {"seconds": 1})


@pytest.mark.parametrize(("code", "state"), [(1, "failed"), (2, "not measured")])
def test_a_worker_that_fails_says_why(tmp_path: Path, code: int, state: str) -> None:
    with printing(tmp_path, "import sys", "sys.stderr.write('a\\nb')", f"sys.exit({code})"):
        assert run_worker(ONE, [], 30) == (state, "b", {})


@pytest.mark.slow
def test_a_method_is_measured_on_a_cpu_and_recorded(tmp_path: Path) -> None:
    options = GpuBenchOptions(minutes=15, output=str(tmp_path), only=("sft, adapter",))
    # Of its 60 seconds a GPU needs few, and a core that other tests share all.
    patient = [dataclasses.replace(one, seconds=600) for one in MEASUREMENTS]
    with (
        mock.patch.object(bench, "MEASUREMENTS", patient),
        (tmp_path / "said").open("w") as stream,
    ):
        assert bench_gpu(options, LAB, is_dry=False, console=Console(file=stream)) == 0
    (path,) = tmp_path.glob("*.json")
    entry = json.loads(path.read_text())["measurements"]["sft, adapter"]
    assert entry["state"] == "measured"
    values = entry["values"]
    assert len(values["all_seconds"]) == 5
    assert values["rows_per_second"] == pytest.approx(4 / values["seconds"])


@pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda measurement: measurement.name)
def test_a_measurement_is_of_one_method_that_can_be_asked_for(measurement: Measurement) -> None:
    (demand,) = read_request(
        PlanOptions(), ["model=sd35_medium", *measurement.words]
    ).demands.values()
    demand.training.check_processes(1)
    demand.training.check_method(
        updates_per_collection=demand.method.updates_per_collection,
        group_size=demand.method.group_size,
    )


#: What tools/gpu_bundle.sh leaves out is not there, for whoever looks for it either.
HIDING = """
import sys
from importlib.machinery import PathFinder

real = PathFinder.find_spec
names = ("datasets", "matplotlib", "mlflow", "pandas", "pyarrow", "scipy", "trl")
PathFinder.find_spec = staticmethod(
    lambda name, *rest: None if name.partition(".")[0] in names else real(name, *rest)
)
for module in sys.argv[1:]:
    __import__(module)
print(*set(names) & {*sys.modules})
"""


def test_a_gpu_is_measured_without_the_packages_of_a_whole_run() -> None:
    kinds = [f"soarbench.benchmarks.gpu.{path.partition(':')[0]}" for path in KINDS.values()]
    command = [sys.executable, "-c", HIDING, *kinds, "tests.gpu.test_kernels"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_grid_that_lacks_packages_is_not_measured_and_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(laboratory, "PACKAGES", ("pandas", "no_such_package"))
    with pytest.raises(UserError, match="a whole run needs no_such_package: pip install no_such"):
        measure("laboratory", [*LAB, "method=sft"], lambda values: pytest.fail(str(values)))
