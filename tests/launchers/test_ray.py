"""``launcher=ray``: the results of one process, on two nodes that may go away."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from soarbench.cli.run import run_whole, workbench
from soarbench.common.errors import UserError
from soarbench.grid.expand import Grid, expand
from soarbench.launchers.backend import Lost, Share
from soarbench.launchers.base import MakeWorkbench
from tests.fakes import SMALL, numbers
from tests.launchers import benches
from tests.tiny import build_tiny_pipeline

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install soarbench[ray]")

# ruff: noqa: E402 (skipped above where Ray is missing)
from ray.cluster_utils import Cluster

from soarbench.launchers import ray_actors, ray_backend
from soarbench.launchers.ray import RayConfig
from soarbench.launchers.ray_cluster import connected

pytestmark = pytest.mark.slow

#: Pretended: to Ray a GPU is a number.
NODE = {"num_cpus": 1, "num_gpus": 2, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def words(overrides: list[str], cluster: Any) -> list[str]:
    launcher = ["launcher=ray", f"launcher.address={cluster.address}"]
    return [*overrides, "tracking=none", "task=aesthetic", "diagnostics=false", *launcher]


def run(words: list[str], bench: MakeWorkbench) -> tuple[Grid, int, str]:
    grid, stream = expand(words), io.StringIO()
    code = run_whole(grid, console=Console(file=stream, width=200), make_workbench=bench)
    return grid, code, stream.getvalue()


def in_one_process(
    words: list[str], tmp_path: Path, bench: MakeWorkbench
) -> dict[str, list[dict[str, object]]]:
    """What the same grid gives without Ray."""
    own = [word for word in words if not word.startswith(("launcher=", "launcher.address"))]
    places = [f"output_dir={tmp_path / 'one'}", f"results_dir={tmp_path / 'one'}"]
    grid, code, _ = run([*own, *places, "launcher.workers=1"], bench)
    assert code == 0
    return results(grid)


def results(grid: Grid) -> dict[str, list[dict[str, object]]]:
    """All scores and training logs of a store, but for what is measured with a clock."""
    tables = json.loads(numbers(grid.store.root))
    return {name: [r for r in rows if r.get("key") != "seconds"] for name, rows in tables.items()}


# ``ddp`` and ``zero2`` take the same way from node to node, and were run by hand.
@pytest.mark.parametrize("parallelism", ["fsdp2"])
def test_a_training_over_two_nodes_gives_the_numbers_of_two_processes_here(
    tmp_path: Path, cluster: Any, parallelism: str
) -> None:
    build_tiny_pipeline(tmp_path / "model")
    words = [
        *("grid=reward_specific", "grid.tasks=[aesthetic]", "method=sft", "tracking=none"),
        *(f"model.path={tmp_path / 'model'}", f"output_dir={tmp_path / 'runs'}", *SMALL),
        *(f"results_dir={tmp_path}", "training.batch_size=4", "data.num_candidates=12"),
        *("data.select_by=[oracle_aesthetic]", "task.final_metric=oracle_aesthetic"),
        *("suites.drawbench.judges=[oracle_aesthetic]", "diagnostics=false", "launcher=ray"),
        *(f"launcher.address={cluster.address}", "launcher.num_processes=2"),
        f"launcher.parallelism={parallelism}",
    ]
    grid, code, text = run([*words, "launcher.gpus_per_node=1"], workbench)
    assert code == 0
    assert "Ray: 2 nodes with 2 GPUs" in text
    assert results(grid) == in_one_process(words, tmp_path, workbench)
    # Each node had one.
    logs = {path.name for path in grid.store.root.glob("trainings/*/processes*.log")}
    assert logs == {"processes.log", "processes-1.log"}
    assert not (grid.folder / ".nodes").exists()
    assert not ray.is_initialized()


def test_a_killed_worker_and_a_lost_node_cost_no_number(
    words: list[str], cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = cluster.add_node(**NODE)
    root = expand(words).store.root
    root.mkdir(parents=True)
    (root / "deaths").write_text("1")

    def remove() -> None:
        while not list(root.glob("trainings/*/training.jsonl")):
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)

    removing = threading.Thread(target=remove)
    removing.start()
    # Jobs of the cores: a pretended GPU more is a process more.
    grid, code, text = run([*words, "device=cpu"], benches.dying)
    removing.join()
    assert code == 0
    assert "Ray: 3 nodes with 3 workers" in text
    assert "is gone" in caplog.text
    assert "begun again" in caplog.text
    assert (root / "deaths").read_text() == "0"
    assert results(grid) == in_one_process([*words, "device=cpu"], tmp_path, benches.quick)


def test_nodes_come_and_go(words: list[str], cluster: Any) -> None:
    grid, now = expand(words), [0.0]
    with (
        connected(cluster.address, None, has_gpus=True),
        ray_backend.Actors(grid, workbench, clock=lambda: now[0]) as actors,
    ):
        names = {node.name for node in actors.nodes()}
        assert len(names) == 2
        node = cluster.add_node(**NODE)
        while len(actors.nodes()) < 3:
            now[0] += 5.0
            time.sleep(0.2)
        (new,) = {one.name for one in actors.nodes()} - names
        worker = actors.start((Share(new, (0,)),))
        ray.get(actors._workers[worker].begun)
        cluster.remove_node(node, allow_graceful=False)
        lost = next(event for _ in range(60) for event in actors.events(1.0))
        assert isinstance(lost, Lost)
        assert lost.worker == worker
        assert "node" in lost.why
        assert "\n" not in lost.why
        while len(actors.nodes()) > 2:
            now[0] += 5.0
            time.sleep(0.2)
        # What the engine had decided before it knew ends as a lost worker, and not the grid.
        worker = actors.start((Share(new, (0,)),))
        lost = next(event for _ in range(60) for event in actors.events(1.0))
        assert isinstance(lost, Lost)


def test_what_cannot_be_used_is_one_line(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^model\.path=x cannot be used; choose another$"):
        run(words, benches.refusing)


def test_a_part_of_a_gpu_is_of_the_one_that_the_engine_means(
    words: list[str], cluster: Any
) -> None:
    grid = expand(words)
    with (
        connected(cluster.address, None, has_gpus=True),
        ray_backend.Actors(grid, workbench) as actors,
    ):
        name = actors.nodes()[0].name
        # Two halves of different GPUs, then a whole one that is free only if the halves share one.
        places = [Share(name, (1,), 4), Share(name, (1,), 4), Share(name, (0,))]
        workers = [actors.start((place,)) for place in places]
        seen = [
            ray.get(actors._workers[worker].actor.__ray_call__.remote(gpus_of))
            for worker in workers
        ]
        assert seen == ["1", "1", "0"]


def gpus_of(_: object) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_worker_that_does_not_start_is_given_up(words: list[str], cluster: Any) -> None:
    grid, now = expand([*words, "launcher.start_minutes=2"]), [0.0]
    with (
        connected(cluster.address, None, has_gpus=True),
        ray_backend.Actors(grid, workbench, clock=lambda: now[0]) as actors,
    ):
        name = actors.nodes()[0].name
        first = actors.start((Share(name, slots=1),))
        ray.get(actors._workers[first].begun)
        second = actors.start((Share(name, slots=1),))
        assert not [event for event in actors.events(1.0) if isinstance(event, Lost)]
        now[0] = 121.0
        (lost,) = actors.events(1.0)
        text = "no worker started within 2 minutes (launcher.start_minutes)"
        assert lost == Lost(worker=second, why=text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("launcher.num_processes=8", r"num_processes=8: the Ray cluster has 4 GPUs"),
        (
            "launcher.gpus_per_node=9",
            r"gpus_per_node=9: no node of the Ray cluster has more than 2",
        ),
        ("device=cuda:1", r"device=cuda:1: with launcher=ray a job is given its GPU; use auto"),
    ],
)
def test_more_than_there_is_is_refused(words: list[str], change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run([*words, "training.batch_size=8", change], benches.quick)
    assert not ray.is_initialized()


def test_another_version_on_a_node_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_backend, "code_version", lambda: "0.0.1 (a-b-c)")
    with pytest.raises(UserError, match=r"node \S+ has soarbench \S+ \S+, not 0\.0\.1 \(a-b-c\)"):
        run(words, benches.quick)


def test_a_folder_that_a_node_does_not_share_is_named(tmp_path: Path) -> None:
    check, code = tmp_path / ".nodes", ray_actors.code_version()
    problem = ray_actors._problem(tmp_path, check, "mark", code)
    assert problem == f"does not share the folder {check} with the machine that runs the grid"
    check.mkdir()
    (check / "driver").write_text("of another disk with the same name")
    problem = ray_actors._problem(tmp_path, check, "mark", code)
    assert problem == f"reads another file than was written at {check}"
    (check / "driver").write_text("mark")
    assert ray_actors._problem(tmp_path, check, "mark", code) is None


def silent(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer_is_refused_soon(words: list[str], scheme: str) -> None:
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}{silent(server)}"
        with pytest.raises(UserError, match=rf"^launcher\.address={address}: no Ray cluster"):
            run([*words, f"launcher.address={address}"], benches.quick)
    with pytest.raises(UserError, match=r"no Ray cluster that can be used: .*refused"):
        run([*words, f"launcher.address={address}"], benches.quick)
    # Ray itself tries for minutes.
    assert time.monotonic() - begun < 60.0


def test_an_address_that_is_none() -> None:
    for address in ("here", "host:many", "http://host:1", ""):
        with pytest.raises(ValueError, match=rf"^launcher\.address={address}: must be auto, host"):
            RayConfig(address=address)
    assert RayConfig(address="ray://[::1]:10001").host_and_port() == ("::1", 10001)


def test_without_ray_one_line_says_how_to_get_it(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find: Callable[..., object] = importlib.util.find_spec

    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "ray" else find(name, *rest),
    )
    with pytest.raises(
        UserError, match=r"Ray is not installed; run 'pip install soarbench\[ray\]'"
    ):
        run([*overrides, "tracking=none", "launcher=ray"], benches.quick)
