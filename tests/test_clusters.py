"""Files and pages for clusters that no test has: soarbench takes what they say."""

from __future__ import annotations

import dataclasses
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from soarbench.cli.app import main
from soarbench.config.composition import compose_choices
from soarbench.config.folders import options
from soarbench.config.run import LauncherConfig

DOCS = Path(__file__).parents[1] / "docs"
CLUSTERS = DOCS / "clusters"


def rayjob() -> dict[str, object]:
    documents = list(yaml.safe_load_all((CLUSTERS / "kuberay-rayjob.yaml").read_text()))
    claim, job = documents
    assert (claim["kind"], job["kind"]) == ("PersistentVolumeClaim", "RayJob")
    spec: dict[str, object] = job["spec"]
    return spec


def task() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    return loaded


def submitted() -> str:
    (line,) = re.findall(r"^    ray job submit .*", (DOCS / "many_gpus.md").read_text(), re.M)
    return line


@pytest.mark.parametrize(
    "text",
    [str(rayjob()["entrypoint"]), str(task()["run"]), submitted()],
    ids=["kube", "sky", "ray"],
)
def test_soarbench_takes_the_command(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rows.jsonl", "drawbench.txt"):
        (tmp_path / name).write_text('{"image": "0.png", "prompt": "a cat"}\n')
    one_line = text.replace("\\\n", " ")
    words = shlex.split(one_line.replace("/shared", str(tmp_path)))
    start = words.index("soarbench")
    end = words.index("fi") if "fi" in words else None
    command = words[start + 1 : end]
    assert command[0] == "run"
    assert "launcher=ray" in command
    assert main([*command, "--dry-run"]) == 0, capsys.readouterr().err


def test_the_cluster_has_the_ray_that_is_tested() -> None:
    cluster = rayjob()["rayClusterSpec"]
    assert isinstance(cluster, dict)
    assert cluster["rayVersion"] == version("ray")
    assert f"rayproject/ray:{version('ray')}-" in (DOCS / "many_gpus.md").read_text()


def test_pods_share_the_folder_of_the_run() -> None:
    cluster = rayjob()["rayClusterSpec"]
    assert isinstance(cluster, dict)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"/shared"}
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "soarbench"}
    assert task()["volumes"] == {"/shared": "soarbench"}


def test_the_page_names_no_setting_that_does_not_exist() -> None:
    known = set[str]()
    for launcher in options("launcher"):
        composed = compose_choices(["grid=reward_specific", f"launcher={launcher}"])
        config = composed.section("launcher")
        assert isinstance(config, LauncherConfig)
        known |= {f"launcher.{entry.name}" for entry in dataclasses.fields(config)}
    named = set(re.findall(r"\blauncher\.\w+", (DOCS / "many_gpus.md").read_text()))
    assert {"launcher.workers", "launcher.num_processes", "launcher.time"} <= named
    assert named <= known
