"""What a power cut, a full disk or a bad one leaves of a store: named, and made again."""

from __future__ import annotations

import io
import itertools
import json
import logging
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from baselines.loop.checkpoints import MANIFEST, checkpoint_path
from baselines.loop.owner import Owner, TakenOver
from soarbench.common.errors import Damaged, DamagedFile
from soarbench.common.files import read_json
from soarbench.common.progress import GridProgress
from soarbench.grid.expand import expand
from soarbench.jobs.base import Context, Job
from soarbench.jobs.draw import Draw
from soarbench.jobs.graph import grid_jobs, sharded
from soarbench.jobs.log import Log
from soarbench.jobs.repair import set_damaged_aside
from soarbench.jobs.snapshots import SnapshotKeeper
from soarbench.jobs.train import Train, trained_folder
from soarbench.launchers.backend import Backend, Ended, Node, Place
from soarbench.launchers.engine import Engine, Patience
from soarbench.launchers.local import run_jobs
from soarbench.launchers.worker import failure_of
from soarbench.store.artefact import Store
from soarbench.store.training import TrainingFolder
from soarbench.tracking.tracker import NoTracker
from tests.fakes import SMALL, FakeWorkbench, numbers


@dataclass
class Straight:
    """A grid that was run to its end, without a fault."""

    jobs: Sequence[Job]
    store: Store

    def copied(self, folder: Path) -> Store:
        shutil.copytree(self.store.root, folder / "runs")
        return Store(folder / "runs")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    folder = tmp_path_factory.mktemp("straight")
    (folder / "model").mkdir()
    (folder / "model/model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    grid = expand([
        "grid=soar_then_grpo", f"model.path={folder / 'model'}", "tracking=none", "task=aesthetic",
        "method=soar_then_flow_grpo", f"output_dir={folder / 'runs'}", *SMALL,
    ])  # fmt: skip
    jobs = grid_jobs(grid.cells, diagnostics=True)
    run(jobs, grid.store)
    return Straight(jobs, grid.store)


def outcomes(
    jobs: Sequence[Job], store: Store, bench: FakeWorkbench
) -> list[tuple[Job, Exception | None]]:
    """Do what is left of jobs; how each ended."""
    return list(run_jobs(pending(jobs, store), context_of(store, bench)))


def context_of(store: Store, bench: FakeWorkbench) -> Context:
    progress = GridProgress(Console(file=io.StringIO()), {})
    return Context(store=store, workbench=bench.at(store), tracker=NoTracker(), progress=progress)


def pending(jobs: Sequence[Job], store: Store) -> list[Job]:
    for job in jobs:
        if type(job) is Log:
            job.record(store).describe(job.description)
    return [job for job in jobs if not job.is_done(store)]


class AtOnce(Backend):
    """A node whose worker is this process."""

    def __init__(self, context: Context) -> None:
        self.context, self.ended = context, list[Ended]()

    def nodes(self) -> list[Node]:
        return [Node(name="here")]

    def start(self, place: Place) -> int:  # noqa: ARG002
        return 0

    def submit(self, worker: int, job: Job) -> None:
        failure = None
        try:
            job.run(self.context)
        except Exception as error:  # noqa: BLE001
            failure = pickle.loads(pickle.dumps(failure_of(error)))  # noqa: S301
        self.ended.append(Ended(worker=worker, failure=failure))

    def stop(self, worker: int) -> None: ...

    def events(self, _: float) -> Iterator[Ended]:
        ended, self.ended = self.ended, []
        yield from ended

    def now(self) -> float:
        return time.monotonic()


def run(jobs: Sequence[Job], store: Store, bench: FakeWorkbench | None = None) -> list[str]:
    """Do what is left of jobs; what the workbench was asked."""
    bench = bench or FakeWorkbench()
    for _, error in outcomes(jobs, store, bench):
        if error is not None:
            raise error
    assert all(job.is_done(store) for job in jobs)
    return bench.calls


def content(store: Store) -> dict[str, object]:
    """Everything that a result could be read from."""
    pictures = {str(p.relative_to(store.root)): p.read_bytes() for p in store.root.rglob("*.png")}
    costs = [read_json(path) for path in sorted(store.root.rglob("cost.json"))]
    weights = [path.read_text() for path in sorted(store.root.glob("trainings/*/*/*/weights"))]
    return {"numbers": numbers(store.root), "costs": costs, "weights": weights, **pictures}


FAULTS: dict[str, Callable[[Path], object]] = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zero": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(b"\0\xff" * (path.stat().st_size // 2)),
    "gone": lambda path: path.unlink(),
}
#: Files of a finished grid, and whether a model is needed to make one again.
FINISHED = {
    "trainings/*/artefact.json": False,
    "trainings/*/cost.json": False,
    "trainings/*/training.parquet": False,
    "images/*/artefact.json": False,
    "scores/*/artefact.json": False,
    "scores/*/rows.parquet": False,
    "scores/*/summary.json": False,
    "scores/*/protocol-*.json": False,
    "probes/images-*/images.parquet": False,
    "probes/paths-*/norms.parquet": True,
    "probes/paths-*/exposure.parquet": True,
    "probes/states-*/states.parquet": True,
    "grids/*/*/status.json": False,
    "grids/*/*/cell.json": False,
}


def readable(straight: Straight, store: Store) -> None:
    """Read all that a report reads."""
    for job in straight.jobs:
        if type(job) is Log:
            cell = job.described(store)
            assert cell.tables.scores().num_rows
            assert cell.tables.protocols()
            assert cell.tables.training() is None or cell.budget
            assert cell.statistics() is not None


@pytest.mark.parametrize("pattern", FINISHED)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_of_a_finished_grid_is_named_and_made_again(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str, fault: str
) -> None:
    store = straight.copied(tmp_path)
    path = sorted(store.root.glob(pattern))[-1]
    FAULTS[fault](path)
    with caplog.at_level(logging.WARNING):
        calls = run(straight.jobs, store)
        readable(straight, store)
    assert content(store) == content(straight.store)
    assert bool(calls) == FINISHED[pattern]
    assert not any(call.startswith("train") for call in calls)
    # A table says by its end that it is whole: it is not there, whatever its name holds.
    is_table = path.suffix == ".parquet"
    assert is_table or any(str(path) in line for line in caplog.messages)


def unjudged(straight: Straight, tmp_path: Path) -> Store:
    """A grid whose images are drawn, and nothing else."""
    store = straight.copied(tmp_path)
    for kind in ("scores", "probes"):
        shutil.rmtree(store.root / kind)
    return store


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_record_of_the_sampler_is_its_copy_or_asked_for_again(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    store = unjudged(straight, tmp_path)
    first, last, *_ = sorted(store.root.glob("images/*/sampler.json"))
    FAULTS[fault](first)
    last.unlink()
    (last.parent / ".sampler.json.copy").unlink()
    calls = run(straight.jobs, store)
    assert content(store) == content(straight.store)
    assert read_json(last) == read_json(straight.store.root / last.relative_to(store.root))
    assert str(first) in caplog.text
    assert f"{last} is missing" in caplog.text
    assert not any(call.startswith(("train", "load")) for call in calls)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_image_is_drawn_again_with_its_bits(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    store = unjudged(straight, tmp_path)
    images = sorted(store.root.rglob("*.png"))
    for path in (images[0], images[4], images[5]):
        FAULTS[fault](path)
    calls = run(straight.jobs, store)
    assert content(store) == content(straight.store)
    assert str(images[0]) in caplog.text
    assert len([call for call in calls if call.startswith("load")]) == 2
    assert not any(call.startswith("train") for call in calls)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("number", [0, 1, 3], ids=["early", "parent", "last"])
def test_a_damaged_snapshot_is_trained_again_when_it_is_needed(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, fault: str
) -> None:
    store = straight.copied(tmp_path)
    trainings = [job for job in straight.jobs if type(job) is Train]
    assert trainings[1].cell.parent == trainings[0].cell
    folders = [trained_folder(store, job.cell) for job in trainings]
    steps = [(folder, step) for folder in folders for step in (3, 6)]
    folder, step = steps[number]
    FAULTS[fault](folder.snapshot(step) / "weights")
    # Nothing needs it: nothing is done.
    assert run(straight.jobs, store) == []
    shutil.rmtree(store.root / "images")
    calls = run(straight.jobs, store)
    assert content(store) == content(straight.store)
    trained = [call for call in calls if call.startswith("train")]
    assert trained == [f"train {trainings[number // 2].cell.label}"]
    assert str(folder.snapshot(step)) in caplog.text


def test_workers_mend_what_they_find_damaged(straight: Straight, tmp_path: Path) -> None:
    store, bench = unjudged(straight, tmp_path), FakeWorkbench()
    trainings = [job for job in straight.jobs if type(job) is Train]
    for image in sorted(store.root.rglob("*.png"))[:2]:
        image.write_bytes(b"")
    draw = next(job for job in straight.jobs if type(job) is Draw and job.step == 6)
    shutil.rmtree(draw.images(store).root)
    for train in trainings:
        (trained_folder(store, train.cell).snapshot(6) / "weights").write_bytes(b"")
    context = context_of(store, bench)
    engine = Engine(AtOnce(context), context.progress, Patience())
    jobs = pending(straight.jobs, store)
    jobs = list(itertools.chain(*sharded(jobs, {job.key: 2.0 for job in jobs}, 1.0).values()))
    assert any(job.kind == "draw" and not job.is_whole for job in jobs)
    ends = engine.run(jobs, {}, lambda job: job.run(context))
    assert [error for _, error in ends if error is not None] == []
    assert content(store) == content(straight.store)
    trained = [call for call in bench.calls if call.startswith("train")]
    assert trained == [f"train {train.cell.label}" for train in trainings]


def broken_off(straight: Straight, tmp_path: Path) -> tuple[Train, Store]:
    """A training that was interrupted after its checkpoint of step 4."""
    train = next(job for job in straight.jobs if type(job) is Train)
    bench, store = FakeWorkbench(), Store(tmp_path / "runs")
    bench.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        outcomes([train], store, bench)
    return train, store


def trained(store: Store, train: Train) -> tuple[object, ...]:
    """What a training came to."""
    folder = trained_folder(store, train.cell)
    weights = [(folder.snapshot(step) / "weights").read_text() for step in train.cell.steps]
    return pq.read_table(folder.table_path).to_pylist(), folder.cost(), weights


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["weights", MANIFEST, "training.jsonl"])
def test_a_damaged_checkpoint_of_a_broken_off_training_is_named(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, fault: str
) -> None:
    train, store = broken_off(straight, tmp_path)
    folder = trained_folder(store, train.cell)
    checkpoint = checkpoint_path(folder.root, 4)
    # The log itself, too: the checkpoint has what it needs of it.
    FAULTS[fault](folder.log_path)
    FAULTS[fault](checkpoint / name)
    run([train], store)
    assert trained(store, train) == trained(straight.store, train)
    assert str(checkpoint) in caplog.text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_training_log_is_the_checkpoints(
    straight: Straight, tmp_path: Path, fault: str
) -> None:
    train, store = broken_off(straight, tmp_path)
    FAULTS[fault](trained_folder(store, train.cell).log_path)
    run([train], store)
    assert trained(store, train) == trained(straight.store, train)


def test_a_training_that_lost_its_table_and_its_log_is_trained_again(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = straight.copied(tmp_path)
    train = next(job for job in straight.jobs if type(job) is Train)
    folder = trained_folder(store, train.cell)
    FAULTS["zero"](folder.table_path)
    FAULTS["half"](folder.log_path)
    assert run(straight.jobs, store) == [f"train {train.cell.label}"]
    assert content(store) == content(straight.store)
    assert "bytes of training.jsonl" in caplog.text


def test_checkpoints_that_a_kill_left_beside_a_finished_training_go(
    straight: Straight, tmp_path: Path
) -> None:
    store = straight.copied(tmp_path)
    train = next(job for job in straight.jobs if type(job) is Train)
    checkpoint_path(trained_folder(store, train.cell).root, 6).mkdir()
    assert run(straight.jobs, store) == []
    assert not list(store.root.rglob("checkpoint-*"))


@pytest.mark.parametrize("is_lost", [False, True])
def test_an_artefact_without_a_record_is_set_aside_and_made_again(
    straight: Straight, tmp_path: Path, is_lost: bool
) -> None:
    store = straight.copied(tmp_path)
    path = sorted(store.root.glob("scores/*/artefact.json"))[0]
    copy = path.parent / ".artefact.json.copy"
    for file in (path, copy):
        file.unlink() if is_lost else file.write_bytes(b"[]")
    if not is_lost:
        with pytest.raises(DamagedFile, match=r"artefact\.json\.copy is damaged"):
            run(straight.jobs, store)
    (line,) = set_damaged_aside(straight.jobs, store, [])
    aside = store.root / "damaged" / f"{path.parent.relative_to(store.root)}-1"
    assert line.endswith(f"; set aside as {aside}, and made again")
    assert (aside / "rows.parquet").is_file()
    # Not begun: what the launcher chose, and why another job failed before it began.
    path.parent.mkdir()
    (path.parent / "choices.json").write_text("{}")
    (path.parent / "error.txt").write_text("out of memory")
    assert set_damaged_aside(straight.jobs, store, []) == []
    run(straight.jobs, store)
    shutil.rmtree(store.root / "damaged")
    (path.parent / "choices.json").unlink()
    assert content(store) == content(straight.store)


@pytest.mark.parametrize(
    "pattern", ["scores/*/rows", "trainings/*/training", "probes/images-*/images"]
)
def test_a_table_that_only_a_reader_finds_damaged_is_set_aside_for_the_run(
    straight: Straight, tmp_path: Path, pattern: str
) -> None:
    store = straight.copied(tmp_path)
    path = sorted(store.root.glob(f"{pattern}.parquet"))[0]
    path.write_bytes(b"PAR1 junk PAR1")
    assert all(job.is_done(store) for job in straight.jobs)
    aside = path.with_name(f"{path.name}.damaged-1")
    text = rf"{path.name} is damaged .* set aside as {aside.name}; the command .* makes it again"
    with pytest.raises(Damaged, match=text):
        readable(straight, store)
    assert aside.is_file()
    run(straight.jobs, store)
    assert content(store) == content(straight.store)


def test_a_node_that_comes_back_late_writes_nothing(straight: Straight, tmp_path: Path) -> None:
    train = next(job for job in straight.jobs if type(job) is Train)
    store = Store(tmp_path / "runs")

    class Late(FakeWorkbench):
        """Hangs at its last step, while another node takes its training over."""

        def __init__(self, *, is_finished: bool) -> None:
            super().__init__()
            self.is_finished = is_finished

        def train(self, cell, on_step):
            cost = super().train(cell, on_step)
            folder = self.folder(cell)
            Owner.claim(folder.root)
            if self.is_finished:
                folder.finish({"optimizer_steps": 6.0, "seconds": 2.0})
            return cost

    ((_, error),) = outcomes([train], store, Late(is_finished=False))
    assert isinstance(error, TakenOver)
    folder = TrainingFolder(store.artefact(train.address).root)
    assert not folder.is_whole
    assert not folder.cost_path.exists()
    ((_, error),) = outcomes([train], store, Late(is_finished=True))
    assert error is None
    assert folder.cost()["seconds"] == 2


def test_a_full_disk_stops_a_cell_in_one_line_and_loses_nothing(
    straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baselines.loop import disk

    store, written = Store(tmp_path / "runs"), []
    flush = disk.flush

    def full(path: Path) -> None:
        written.append(path)
        if len(written) > 60:
            raise OSError(28, "No space left on device")
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "flush", full)
        ends = [error for _, error in outcomes(straight.jobs, store, FakeWorkbench()) if error]
    assert any("disk full while writing" in str(error) for error in ends)
    run(straight.jobs, store)
    assert content(store) == content(straight.store)
    assert not list(store.root.rglob("*.partial"))


def test_snapshots_that_nothing_needs_go_and_come_back_when_something_does(
    straight: Straight, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = straight.copied(tmp_path)
    shutil.rmtree(store.root / "images")
    keeper = SnapshotKeeper(straight.jobs, store, "last")
    keeper.tidy()
    pending = [job for job in straight.jobs if type(job) is Draw and job.step == 3]
    assert pending
    assert all(trained_folder(store, job.cell).snapshot(3).is_dir() for job in pending)
    trainings = [job for job in straight.jobs if type(job) is Train]
    for job, error in outcomes(straight.jobs, store, FakeWorkbench()):
        assert error is None
        keeper.ended(job)
    left = sorted(path.parent.name for path in store.root.glob("trainings/*/snapshots/*/weights"))
    assert left == ["step-000006"] * len(trainings)
    assert run(straight.jobs, store) == []
    shutil.rmtree(store.root / "images")
    calls = run(straight.jobs, store)
    assert len([call for call in calls if call.startswith("train")]) == len(pending)
    assert "was removed by store.keep_snapshots=last" in caplog.text
    assert numbers(store.root) == numbers(straight.store.root)
    kept = len(list(store.root.glob("trainings/*/snapshots/*/weights")))
    assert kept == len(trainings) + len(pending)
    SnapshotKeeper(straight.jobs, store, "all").tidy()
    assert len(list(store.root.glob("trainings/*/snapshots/*/weights"))) == kept


def test_a_lost_status_keeps_its_time_and_run(straight: Straight, tmp_path: Path) -> None:
    store = straight.copied(tmp_path)
    path = sorted(store.root.glob("grids/*/*/status.json"))[0]
    before = json.loads(path.read_text())
    path.write_text("null")
    run(straight.jobs, store)
    assert json.loads(path.read_text()) == before
