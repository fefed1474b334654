"""The command line."""

from __future__ import annotations

import importlib
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from soarbench import __version__
from soarbench.common.errors import UserError, printable, without_middle, without_passwords
from soarbench.common.logs import set_levels

if typing.TYPE_CHECKING:
    from soarbench.config.keys import Options

EXIT_USER_ERROR = 2
#: As a shell says of what SIGINT ended: 128 + 2.
EXIT_INTERRUPTED = 130
_LONGEST_LINE = 300
_SETTINGS = "settings of a run, e.g. budget=standard 'seeds=[0,1,2]' task=aesthetic conf_dir=DIR"
_ANY_NUMBER = "NAME ..."
#: Flags, and the arguments that they become.
_FLAGS = {"--dry-run": "is_dry", "--json": "as_json"}


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: What it does.
        usage: Its words.
        names: What comes first and is no ``key=value``; ``_ANY_NUMBER`` becomes a list.
        flags: That it knows.
        function: ``module:function``; of ``lab build`` it is ``soarbench.cli.lab:build`` unless
            another is named. Takes the names, the options where it has any, words, and a console.
    """

    summary: str
    usage: str = _SETTINGS
    names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    # By name: an import of every command would load torch for ``--help``.
    function: str = ""


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "train, sample, score and report a grid",
        f"grid=NAME and {_SETTINGS}; --dry-run prints the cells and their estimated time, with "
        "--json for programs",
        flags=("--dry-run", "--json"),
    ),
    "report": Command(
        "make a grid's reports again from stored scores",
        f"[x=seconds,images_seen] [thresholds.METRIC=VALUE] and {_SETTINGS}",
    ),
    "status": Command(
        "how far the grids of an output directory are, and what runs",
        f"output_dir=DIR and {_SETTINGS}",
        flags=("--json",),
    ),
    "compare": Command(
        "is A better than B, by how much, how sure",
        "A and B are methods, cell ids, or folders of scores; [metric=NAME] [step=N] and "
        f"{_SETTINGS}",
        names=("A", "B"),
        flags=("--json",),
    ),
    "export": Command(
        "copy finished cells without images, to publish", f"output=DIR grid=NAME and {_SETTINGS}"
    ),
    "publish": Command(
        "write a trained cell's model card, and upload both to the Hugging Face hub",
        "CELL is a cell id, as 'run --dry-run' lists them; grid=NAME [repo=USER/NAME] "
        f"[license=NAME] [private=false] and {_SETTINGS}",
        names=("CELL",),
    ),
    "leaderboard": Command(
        "a web page of exported grids whose protocols are alike",
        "exports=[DIR,DIR] [output=FILE.html] [title=TEXT]",
    ),
    "diagnose": Command(
        "measure finished cells for signs of gaming", function="soarbench.cli.run:diagnose"
    ),
    "plan": Command(
        "memory and time of training, before it starts",
        f"[model=NAME] [method=NAME,NAME] [gpu=NAME] [utilisation=SHARE] and {_SETTINGS}",
    ),
    "bench": Command(
        "time and memory of every method", function="soarbench.benchmarks.methods:bench"
    ),
    "bench judges": Command(
        "GenEval's speed, against the obvious way",
        "[num_images=N] [judge.geneval.KEY=VALUE]",
        function="soarbench.benchmarks.judges:bench_judges",
    ),
    "bench full_size": Command(
        "one update of SD3.5's whole transformer with random weights (12 GB, minutes)",
        function="soarbench.benchmarks.full_size:full_size",
    ),
    "bench gpu": Command(
        "speed and memory of everything on this GPU, into results/gpu (minutes)",
        "[minutes=N] [output=DIR] [only=[NAME]] and settings of a run, e.g. device=cuda:1; "
        "--dry-run says whether this machine will do, and what is measured",
        flags=("--dry-run",),
        function="soarbench.benchmarks.gpu.bench:bench_gpu",
    ),
    "soak": Command(
        "kill a small grid at random moments, repeat it, and compare it with one nobody killed",
        "output_dir=DIR [kills=200] [launchers=[local,processes,ray,ray_nodes]] [seed=0] "
        "[minutes=N] and settings of a run, e.g. method=[sft,soar]",
        function="soarbench.benchmarks.soak.soak:soak",
    ),
    "bench grid": Command(
        "how busy a pretended cluster is that runs a grid, and for how long",
        f"[gpus=[8,64]] [gpus_per_node=N] [gpu=NAME] [load_seconds=N] and {_SETTINGS}",
        function="soarbench.benchmarks.grid:bench_grid",
    ),
    "data score": Command(
        "score a training set by a judge",
        f"data.path=FILE judge=aesthetic output=FILE and {_SETTINGS}",
    ),
    "data filter": Command(
        "keep the rows of a scored set at and above a score",
        "input=FILE output=FILE thresholds.aesthetic=6.8",
        function="soarbench.cli.data:filter_rows",
    ),
    "data check": Command(
        "look for what is wrong with a training set",
        "data.path=FILE [output=FILE] [near=true] [suites.NAME.prompts=FILE] and " + _SETTINGS,
    ),
    "evaluate": Command(
        "draw a suite with a model and judge it",
        "suite=NAME [model=NAME|DIR|HUB_ID] [model.adapter=DIR|HUB_ID] [output=DIR] "
        "[suites.NAME.prompts=FILE] [suites.NAME.images_per_prompt=N] [suites.NAME.max_prompts=N] "
        "[suites.NAME.judges=NAME,NAME] [judge.NAME.KEY=VALUE] [model.KEY=VALUE] "
        "[sampling.KEY=VALUE] [device=NAME]",
    ),
    "score": Command(
        "judge images of any model",
        "suite=NAME images=DIR [output=DIR] [coverage=exact|found] [suites.NAME.prompts=FILE] "
        "[suites.NAME.images_per_prompt=N] [suites.NAME.judges=NAME,NAME] [judge.NAME.KEY=VALUE]",
    ),
    "doctor": Command(
        "which judges, prompts and sets of images are ready, and how to get the rest",
        "names of judges, e.g. geneval; none: all; [conf_dir=DIR]",
        names=(_ANY_NUMBER,),
    ),
    "fetch": Command(
        "download published weights of judges, prompts and adapters",
        "names of judges, e.g. geneval; prompts; anchors; OWNER/NAME of an adapter; [conf_dir=DIR]",
        names=(_ANY_NUMBER,),
    ),
    "lab build": Command("build the laboratory's assets", "[stage=NAME]"),
    "lab card": Command("print the card of its assets", ""),
    "lab sheet": Command("draw a sample sheet of its base model", "[output=FILE.png]"),
    "lab draw": Command(
        "draw a suite's prompts with its renderer",
        "output=DIR [suite=lab_geneval] [images_per_prompt=2] [wrong=0.2]",
    ),
    "sync": Command(
        "deliver to MLflow what it did not get, or has lost",
        "[grid=NAME] output_dir=DIR [tracking.uri=URI]; without grid= all grids of the folder",
    ),
    "ui": Command("serve the MLflow store as a page", f"[port=N] and {_SETTINGS}"),
}


def _usage(commands: Mapping[str, Command] = COMMANDS) -> str:
    rows = "\n".join(f"  {name:<15} {command.summary}" for name, command in commands.items())
    return (
        "usage: python -m soarbench COMMAND [key=value ...]\n\n"
        "Compares post-trainings of text-to-image diffusion models under equal budgets.\n\n"
        f"commands:\n{rows}\n\n"
        "'python -m soarbench COMMAND --help' explains a command.\n"
        "Start with: python -m soarbench run grid=reward_specific --dry-run\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    set_levels()
    try:
        return _dispatch(list(arguments))
    except UserError as error:
        return _say(str(error), EXIT_USER_ERROR)
    except OSError as error:
        # Of the machine, not of the program, where it names a file: no traceback says more.
        if error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror}", EXIT_USER_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write(
            "soarbench: interrupted; what is done is kept, the same command goes on from there\n"
        )
        return EXIT_INTERRUPTED


def _say(error: str, code: int) -> int:
    """One line, without the middle of a value that is pages long: the remedy stands at the end."""
    line = without_passwords(" ".join(f"soarbench: error: {error}".split()))
    if len(line) > _LONGEST_LINE:
        line = " ".join(without_middle(word, _LONGEST_LINE // 3) for word in line.split())
    sys.stderr.write(f"{printable(without_middle(line, _LONGEST_LINE))}\n")
    return code


def _refuse_no_text(arguments: Sequence[str]) -> None:
    """Refuse words that no file can be called by, and that no file can be written with."""
    for word in arguments:
        if "\0" in word or printable(word) != word:
            raise UserError(f"{word!r}: holds a NUL or is no UTF-8; write it anew")


def _dispatch(arguments: list[str]) -> int:
    _refuse_no_text(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage())
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] == "--version":
        sys.stdout.write(f"soarbench {__version__}\n")
        return 0
    pair = " ".join(arguments[:2])
    name = pair if pair in COMMANDS else arguments[0]
    rest = arguments[len(name.split()) :]
    if "--help" in rest or "-h" in rest:
        sys.stdout.write(_help(name))
        return 0
    return _run(name, _command(name), rest)


def _command(name: str) -> Command:
    """A command; ``UserError`` where there is none, or it needs a second word."""
    if name in COMMANDS:
        return COMMANDS[name]
    actions = [key.partition(" ")[2] for key in _family(name)]
    if actions:
        raise UserError(f"say what {name} is to do: {name} {', '.join(actions)}")
    names = ", ".join(dict.fromkeys(key.split()[0] for key in COMMANDS))
    raise UserError(f"there is no command {name!r}; choose one of {names}")


def _family(name: str) -> dict[str, Command]:
    """The commands that begin with a word."""
    return {key: command for key, command in COMMANDS.items() if key.split()[0] == name}


def _help(name: str) -> str:
    family = _family(name)
    if len(family) > 1:
        return _usage(family)
    command = _command(name)
    head = " ".join([name, *command.names, *(f"[{flag}]" for flag in command.flags)])
    return (
        f"usage: python -m soarbench {head} [key=value ...]\n\n{command.summary}\n\n"
        f"words: {command.usage or 'none'}\n"
    )


def _parted(texts: Sequence[str], names: Sequence[str]) -> tuple[list[object], list[str]]:
    """What comes before the words, and the words."""
    if names == (_ANY_NUMBER,):
        return [[t for t in texts if "=" not in t]], [t for t in texts if "=" in t]
    return [*texts[: len(names)]], [*texts[len(names) :]]


def function_of(name: str) -> Callable[..., int]:
    """What a command calls; its module is imported."""
    path = COMMANDS[name].function or f"soarbench.cli.{name.split()[0]}:{name.split()[-1]}"
    module, _, function = path.partition(":")
    loaded: Callable[..., int] = getattr(importlib.import_module(module), function)
    return loaded


def options_of(function: Callable[..., int]) -> type[Options] | None:
    """The class of a command's own options: that of its parameter; None where it has none."""
    from soarbench.config.keys import Options

    hints = typing.get_type_hints(function).values()
    return next((h for h in hints if isinstance(h, type) and issubclass(h, Options)), None)


def _run(name: str, command: Command, arguments: list[str]) -> int:
    """Sort what follows a command into names, words and flags, and call it."""
    flags = [text for text in arguments if text.startswith("-")]
    for flag in flags:
        if flag not in command.flags:
            raise UserError(
                f"unrecognized arguments: {flag}; see 'python -m soarbench {name} --help'"
            )
    names, words = _parted([t for t in arguments if not t.startswith("-")], command.names)
    if len(names) < len(command.names):
        raise UserError(f"name {' and '.join(command.names)}: {name} {' '.join(command.names)}")
    # Imported now, so that help and a misspelt command answer at once.
    from rich.console import Console

    from soarbench.cli.words import own_keys, read
    from soarbench.config.keys import Options, UnknownKeyError

    function = function_of(name)
    kind = options_of(function)
    given = [*names, *(read(kind, words) if kind else [words])]
    choices = {
        argument: flag in flags for flag, argument in _FLAGS.items() if flag in command.flags
    }
    try:
        return function(*given, console=Console(), **choices)
    except UnknownKeyError as error:
        # Of the settings of a run alone: the command's own keys may be nearer to what was typed.
        raise error.beside(own_keys(kind or Options)) from error
