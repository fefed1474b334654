"""The command line. Commands import what they need when they run, so that help answers at once."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from soarbench import __version__
from soarbench.common.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_OVERRIDES = "settings in Hydra's grammar, e.g. budget=standard seeds=[0,1,2] task=aesthetic"


class _Parser(argparse.ArgumentParser):
    """Reports misuse as every other user error: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(f"{message}; see '{self.prog} --help'")


@dataclass(frozen=True)
class Command:
    """One command: what it says of itself, its arguments and its work."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    work: Callable[[argparse.Namespace], int]


def _console() -> Console:
    from rich.console import Console

    return Console()


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _add_overrides(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the cells and their estimated time"
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: every job, as JSON")


def _run(arguments: argparse.Namespace) -> int:
    from soarbench.cli.run import run

    return run(
        arguments.overrides,
        is_dry=arguments.dry_run,
        as_json=arguments.json,
        console=_console(),
    )


def _report(arguments: argparse.Namespace) -> int:
    from soarbench.cli.report import report

    return report(arguments.overrides, console=_console())


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="path=DIR grid=NAME and settings of the run"
    )


def _export(arguments: argparse.Namespace) -> int:
    from soarbench.cli.export import export

    return export(arguments.words, console=_console())


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="a method, a cell id, or a folder of scores")
    parser.add_argument("second", metavar="B", help="another")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="[grid=NAME] [task=NAME] [metric=NAME] [step=N] and settings of the run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _compare(arguments: argparse.Namespace) -> int:
    from soarbench.cli.compare import compare

    return compare(
        arguments.first,
        arguments.second,
        arguments.words,
        as_json=arguments.json,
        console=_console(),
    )


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="[x=seconds,images_seen] [threshold=METRIC:VALUE] and settings of the run",
    )


def _diagnose(arguments: argparse.Namespace) -> int:
    from soarbench.cli.run import diagnose

    return diagnose(arguments.overrides, console=_console())


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help=f"{_OVERRIDES}; or: judges [images=N] [judge.geneval.KEY=VALUE], GenEval's speed; or: "
        "full_size, one update of SD3.5-Medium's whole transformer with random weights (about "
        "12 GB, minutes)",
    )


def _bench(arguments: argparse.Namespace) -> int:
    words = arguments.overrides
    if words[:1] == ["judges"]:
        from soarbench.benchmarks.judges import bench_judges

        return bench_judges(words[1:], console=_console())
    if words[:1] == ["full_size"]:
        from soarbench.benchmarks.full_size import full_size

        return full_size(words[1:], console=_console())
    from soarbench.benchmarks.methods import bench

    return bench(arguments.overrides, console=_console())


def _ui_arguments(parser: argparse.ArgumentParser) -> None:
    _add_overrides(parser)
    parser.add_argument("--port", type=int, default=5000, help="of the web page (default 5000)")


def _ui(arguments: argparse.Namespace) -> int:
    from soarbench.config.compose import run_settings
    from soarbench.tracking.tracker import ui_command, ui_views

    settings = run_settings(arguments.overrides)
    output_dir = Path(settings.output_dir).expanduser()
    command = ui_command(settings.tracking, output_dir, arguments.port)
    console = _console()
    for about, address in ui_views(settings.tracking, output_dir, arguments.port).items():
        console.print(f"{about}\n  {address}", highlight=False, markup=False, soft_wrap=True)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _lab_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("build", "card", "sheet", "draw"),
        help="build the assets, print their card, draw a sample sheet, or draw a suite's prompts",
    )
    parser.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="build: stage=NAME for one stage alone; sheet: path=FILE.png; "
        "draw: path=DIR suite=lab_geneval images_per_prompt=2 wrong=0.2",
    )


def _lab(arguments: argparse.Namespace) -> int:
    from soarbench.cli import lab

    console = _console()
    known = {
        "build": ("stage",),
        "card": (),
        "sheet": ("path",),
        "draw": ("path", "suite", "images_per_prompt", "wrong"),
    }[arguments.action]
    options = _options(arguments.options, known)
    if arguments.action == "build":
        lab.build(options.get("stage"))
    elif arguments.action == "card":
        lab.card(console)
    elif arguments.action == "draw":
        console.print(lab.draw(options), highlight=False, soft_wrap=True)
    else:
        path = lab.sheet(Path(options.get("path", "runs/lab_sheet.png")))
        console.print(f"wrote {path}", highlight=False)
    return 0


def _options(words: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Read ``key=value`` words.

    Raises:
        UserError: Another key, or no ``=``.
    """
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in known:
            wanted = ", ".join(f"{name}=..." for name in known) or "nothing"
            raise UserError(f"{word!r} is not understood here: this command takes {wanted}")
        found[key] = value
    return found


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="suite=NAME images=DIR [output=DIR] [prompts=FILE] [images_per_prompt=N] "
        "[coverage=exact|found] [judges=NAME,NAME] [judge.NAME.KEY=VALUE]",
    )


def _score(arguments: argparse.Namespace) -> int:
    from soarbench.cli.score import score

    return score(arguments.words, console=_console())


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="suite=NAME [model=NAME|DIR|HUB_ID] [model.adapter=DIR|HUB_ID] [output=DIR] "
        "[prompts=FILE] [images_per_prompt=N] [max_prompts=N] [judges=NAME,NAME] "
        "[judge.NAME.KEY=VALUE] [model.KEY=VALUE] [sampling.KEY=VALUE] [device=NAME]",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from soarbench.cli.evaluate import evaluate

    return evaluate(arguments.words, console=_console())


def _names_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a judge, e.g. geneval")


def _doctor(arguments: argparse.Namespace) -> int:
    from soarbench.cli.doctor import doctor

    return doctor(arguments.names, console=_console())


def _fetch(arguments: argparse.Namespace) -> int:
    from soarbench.cli.fetch import fetch

    return fetch(arguments.names, console=_console())


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="[model=NAME] [method=NAME,NAME] [gpu=NAME] [utilisation=SHARE] and settings of a run",
    )


def _plan(arguments: argparse.Namespace) -> int:
    from soarbench.cli.plan import plan

    return plan(arguments.words, console=_console())


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("score", "filter", "check"),
        help="score a set by a judge, keep the part above a threshold, or look for what is wrong",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help="score: data.path=FILE judge=aesthetic output=FILE; "
        "filter: input=FILE output=FILE aesthetic=6.8; "
        "check: data.path=FILE [output=FILE] [near=true] [suites.NAME.prompts=FILE]; "
        "and settings of a run (data=..., data.KEY=VALUE, model=...)",
    )


def _data(arguments: argparse.Namespace) -> int:
    from soarbench.cli.data import data

    return data(arguments.action, arguments.words, console=_console())


COMMANDS: Mapping[str, Command] = {
    "run": Command("train, sample, score and report a grid", _run_arguments, _run),
    "report": Command("make a grid's reports again from stored scores", _report_arguments, _report),
    "compare": Command("is A better than B, by how much, how sure", _compare_arguments, _compare),
    "export": Command("copy finished cells without images, to publish", _export_arguments, _export),
    "diagnose": Command("measure finished cells for signs of gaming", _add_overrides, _diagnose),
    "plan": Command("memory and time of training, before it starts", _plan_arguments, _plan),
    "bench": Command("time and memory of every method and judge", _bench_arguments, _bench),
    "data": Command("training sets: score, filter, check", _data_arguments, _data),
    "evaluate": Command("draw a suite with a model and judge it", _evaluate_arguments, _evaluate),
    "score": Command("judge images of any model", _score_arguments, _score),
    "doctor": Command("which judges are ready, and how to get the rest", _names_arguments, _doctor),
    "fetch": Command("download a judge's published weights", _names_arguments, _fetch),
    "lab": Command("the laboratory: build, card, sheet, draw", _lab_arguments, _lab),
    "ui": Command("open the MLflow store in a browser", _ui_arguments, _ui),
}


def _usage() -> str:
    rows = "\n".join(f"  {name:<9} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: python -m soarbench COMMAND [key=value ...]\n\n"
        "Compares post-trainings of text-to-image diffusion models under equal budgets.\n\n"
        f"commands:\n{rows}\n\n"
        "'python -m soarbench COMMAND --help' explains a command.\n"
        "Start with: python -m soarbench run grid=reward_specific --dry-run\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("soarbench").setLevel(logging.INFO)
    try:
        return _dispatch(list(arguments))
    except UserError as error:
        sys.stderr.write(f"soarbench: error: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(
            "soarbench: interrupted; what is done is kept, the same command goes on from there\n"
        )
        return EXIT_INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] == "--version":
        sys.stdout.write(f"soarbench {__version__}\n")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; choose one of {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    parser = _Parser(prog=f"python -m soarbench {name}", description=command.summary)
    command.add_arguments(parser)
    return command.work(parser.parse_intermixed_args(rest))
