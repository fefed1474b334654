"""What a newcomer gets wrong in a package of their own: one line, before anything is trained."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from soarbench.cli.app import main

PACKAGES = Path(__file__).parent
CONF = PACKAGES / "toyplugin/conf"
METHOD = (CONF / "method/huber.yaml").read_text()
HUBER = "from toyplugin.huber_config import HuberConfig as Base\n"
JUDGE = "from toyplugin.color_error import ColorErrorConfig as Base\n"
MODULE = (
    "import dataclasses\n@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Mine(Base):\n"
)
_numbers = itertools.count()

Dry = Callable[..., str]


@pytest.fixture
def dry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Dry]:
    """Dry runs a grid with another method or judge; -> the one line that refuses it."""
    (tmp_path / "pictures").mkdir()
    for index in range(8):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"pictures/a red square.{index}.png")
    monkeypatch.syspath_prepend(str(PACKAGES))
    monkeypatch.syspath_prepend(str(tmp_path))

    def refused(source: str, yaml: str = "", *, group: str = "method", **more: str) -> str:
        module = f"mistake_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(source)
        own = {f"{group}/mine.yaml": yaml.replace("MODULE", module)} | more
        for name, text in own.items():
            path = tmp_path / "conf" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        words = ["grid.methods=[sft,mine]"] if group == "method" else []
        if group == "judge":
            words = ["suites.palette.judges=[color_error,mine]"]
        words += [f"conf_dir={CONF}", f"conf_dir={tmp_path / 'conf'}"]
        words += [f"data.path={tmp_path / 'pictures'}", f"output_dir={tmp_path / 'runs'}"]
        given = ["grid=palette", "model=pixels", "budget=quick", "device=cpu", "tracking=none"]
        code = main(["run", *given, *words, "--dry-run"])
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == (2, 1), error
        return error

    yield refused
    for name in [name for name in sys.modules if name.startswith("mistake_")]:
        del sys.modules[name]


def method(body: str) -> tuple[str, str]:
    yaml = re.sub("_target_: .*", "_target_: MODULE.Mine", METHOD)
    return HUBER + MODULE + body, yaml


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    pass\n", r"Mine has the kind 'huber' of HuberConfig"),
        ("    kind = 'm'\n    code = ('toyplugin.huber')\n", r"Mine\.code='toyplugin\.huber' must"),
        *(
            (
                f"    kind = 'm'\n    def forward_equivalents(self): return {value}\n",
                r"Mine\.forward_equivalents\(\) = .* is not possible: return a positive number",
            )
            for value in ("0", "-1.0", "float('nan')", "'three'")
        ),
    ],
)
def test_a_method_that_cannot_be_is_named(dry: Dry, body: str, message: str) -> None:
    assert re.search(message, dry(*method(body)))


def test_code_that_is_not_there_is_named(dry: Dry) -> None:
    error = dry(*method("    kind = 'm'\n    code = ('toyplugin.hubr',)\n"))
    assert "Mine.code: no module 'toyplugin.hubr' can be found; check the dotted path" in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("def f(:", r"mistake_\d+\.py, line 2: invalid syntax"),
        ("raise RuntimeError('no GPU')", r"RuntimeError: no GPU, at .*mistake_\d+\.py, line 2"),
        ("import sys; sys.exit(3)", r"SystemExit: 3, at .*mistake_\d+\.py, line 2"),
        ("import no_such_package", r"cannot be imported \(No module named 'no_such_package'\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(dry: Dry, line: str, message: str) -> None:
    error = dry(f"# A module.\n{line}\n", method("")[1])
    assert re.search(message, error)
    assert re.search(r"method\._target_='mistake_\d+\.Mine' cannot be imported", error)


def test_a_method_without_what_it_must_say_is_named(dry: Dry) -> None:
    source, yaml = method("    def build(self, world): ...\n")
    base = "from baselines.config import MethodConfig as Base\n"
    error = dry(source.replace(HUBER, base), yaml)
    assert re.search("Mine' lacks forward_equivalents, forwards_with_gradient: write what", error)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    pass\n", "Mine has the kind 'color_error' of ColorErrorConfig"),
        ("    kind = 'm'\n    packages = ('numpy')\n", "Mine.packages='numpy' must be of type"),
        ("    kind = 'm'\n    unit = None\n", "Mine.unit=None must be of type str"),
    ],
)
def test_a_judge_that_cannot_be_is_named(dry: Dry, body: str, message: str) -> None:
    assert message in dry(JUDGE + MODULE + body, "_target_: MODULE.Mine\n", group="judge")


def test_a_judge_without_what_it_must_say_is_named(dry: Dry) -> None:
    base = "from evaluators.base import JudgeConfig as Base\n"
    source = base + MODULE + "    kind = 'm'\n    def build(self): ...\n"
    error = dry(source, "_target_: MODULE.Mine\n", group="judge")
    assert "Mine lacks title, summary, unit, value_range: add `title = ...`" in error
