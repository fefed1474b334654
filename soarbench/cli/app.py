"""The command line."""

from __future__ import annotations

import importlib
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from baselines.loop.disk import StorageError
from soarbench import __version__
from soarbench.cli.typed import CFG, as_words, with_keys, without_help
from soarbench.common.errors import UserError, printable, without_middle, without_passwords
from soarbench.common.logs import set_levels

if typing.TYPE_CHECKING:
    from soarbench.config.keys import Options

EXIT_USER_ERROR = 2
#: As a shell says of what SIGINT ended: 128 + 2.
EXIT_INTERRUPTED = 130
_LONGEST_LINE = 300
_ANY_NUMBER = "NAME ..."
#: Of a run's settings what matters where nothing is trained.
_FOLDERS = ("output_dir", "results_dir")
_SELECTION = ("grid", "budget", "task", "method", "model", "data", "seeds", *_FOLDERS)
_TRAINING = (*("model", "task", "method", "optim", "lora", "ema", "training"), "launcher")
#: Flags, and the arguments that they become.
_FLAGS = {"--dry-run": "is_dry", "--json": "as_json"}


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: What it does.
        usage: What its names mean.
        names: What comes first and is no ``key=value``; ``_ANY_NUMBER`` becomes a list.
        flags: That it knows.
        function: ``module:function``; of ``lab build`` it is ``soarbench.cli.lab:build`` unless
            another is named. Takes the names, the options where it has any, words, and a console.
        examples: Words that work, as a shell takes them.
        matter: The settings of a run that its help lists, by their first part; empty: all.
        says: What is done first, where that takes seconds.
    """

    summary: str
    usage: str = ""
    names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    # By name: an import of every command would load torch for ``--help``.
    function: str = ""
    examples: tuple[str, ...] = ()
    matter: tuple[str, ...] = ()
    says: str = ""


COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "train, sample, score and report a grid",
        flags=("--dry-run", "--json"),
        examples=(
            "grid=reward_specific --dry-run",
            "grid=reward_specific budget.steps=30 optim.learning_rate=1e-4",
            "grid=reward_specific task=aesthetic method=sft,soar 'seeds=[0,1,2]'",
        ),
        says="reading the configuration",
    ),
    "ls": Command(
        "what there is to choose from: grids, methods, tasks, judges, suites, models, data ...",
        "what to list; none: all",
        names=(_ANY_NUMBER,),
        function="soarbench.cli.listing:ls",
        examples=("methods", "judges suites"),
    ),
    "report": Command(
        "make a grid's reports again from stored scores",
        examples=("grid=reward_specific", "grid=reward_specific x=seconds,images_seen"),
        matter=(*_SELECTION, "figure_formats", "margin", "detect", "stale"),
        says="reading stored scores, drawing figures",
    ),
    "status": Command(
        "how far the grids of an output directory are, and what runs",
        flags=("--json",),
        examples=("output_dir=DIR",),
        matter=("output_dir",),
    ),
    "compare": Command(
        "is A better than B, by how much, how sure",
        "A and B are methods, cell ids, or folders of scores",
        names=("A", "B"),
        flags=("--json",),
        examples=("soar sft grid=reward_specific task=aesthetic",),
        matter=(*_SELECTION, "margin", "detect"),
        says="reading stored scores",
    ),
    "export": Command(
        "copy finished cells without images, to publish",
        examples=("grid=reward_specific budget=standard output=results/lab/mine",),
        matter=_SELECTION,
        says="reading stored scores",
    ),
    "publish": Command(
        "write a trained cell's model card, and upload both to the Hugging Face hub",
        "a cell id, as 'run --dry-run' lists them",
        names=("CELL",),
        matter=_SELECTION,
        says="reading stored scores",
    ),
    "leaderboard": Command(
        "a web page of exported grids whose protocols are alike",
        says="reading exports",
    ),
    "diagnose": Command(
        "measure finished cells for signs of gaming",
        function="soarbench.cli.run:diagnose",
        examples=("grid=reward_specific",),
        matter=(*_SELECTION, "diversity", "robustness", "device", "launcher", "tracking"),
        says="reading the configuration",
    ),
    "plan": Command(
        "memory and time of training, before it starts",
        examples=("model=sd35_medium method=soar gpu=l40s-48gb",),
        matter=_TRAINING,
        says="counting memory on pretended models",
    ),
    "bench": Command(
        "time and memory of every method",
        function="soarbench.benchmarks.methods:bench",
        matter=(*_TRAINING, "device"),
        says="loading torch",
    ),
    "bench judges": Command(
        "GenEval's speed, against the obvious way",
        function="soarbench.benchmarks.judges:bench_judges",
        says="loading torch",
    ),
    "bench full_size": Command(
        "one update of SD3.5's whole transformer with random weights (12 GB, minutes)",
        matter=_TRAINING,
        says="loading torch",
    ),
    "bench gpu": Command(
        "speed and memory of everything on this GPU, into results/gpu (minutes)",
        "--dry-run says whether this machine will do, and what is measured",
        flags=("--dry-run",),
        function="soarbench.benchmarks.gpu.bench:bench_gpu",
        matter=("device", *_TRAINING),
        says="looking at this machine",
    ),
    "soak": Command(
        "kill a small grid at random moments, repeat it, and compare it with one nobody killed",
        function="soarbench.benchmarks.soak.soak:soak",
        examples=("output_dir=DIR",),
        matter=("method", "task"),
        says="making the grids",
    ),
    "bench grid": Command(
        "how busy a pretended cluster is that runs a grid, and for how long",
        function="soarbench.benchmarks.grid:bench_grid",
        matter=("grid", "budget", "seeds", *_TRAINING),
        says="counting jobs",
    ),
    "data score": Command(
        "score a training set by a judge",
        examples=("data.path=rows.jsonl judge=aesthetic output=scored.jsonl",),
        matter=("data", "model", "device"),
        says="reading the set",
    ),
    "data filter": Command(
        "keep the rows of a scored set at and above a score",
        function="soarbench.cli.data:filter_rows",
        examples=("input=scored.jsonl output=kept.jsonl thresholds.aesthetic=6.8",),
    ),
    "data check": Command(
        "look for what is wrong with a training set",
        examples=("data.path=kept.jsonl suites.drawbench.prompts=prompts.txt",),
        matter=("data", "model", "suites"),
        says="reading the set",
    ),
    "evaluate": Command(
        "draw a suite with a model and judge it",
        examples=("suite=lab_geneval", "suite=geneval model=sd35_medium"),
        says="reading the configuration, loading the model",
    ),
    "score": Command(
        "judge images of any model",
        examples=(
            "suite=geneval images=DIR",
            "suite=ocr images=DIR suites.ocr.prompts=prompts.txt",
        ),
        says="looking for images, loading judges",
    ),
    "doctor": Command(
        "which judges, prompts and sets are ready, or whether a grid can run, and what to do",
        "names of judges; none: all, or what grid=NAME needs",
        names=(_ANY_NUMBER,),
        function="soarbench.cli.readiness:doctor",
        examples=("geneval", "grid=main_table model=sd35_medium"),
        matter=_SELECTION,
        says="looking at judges",
    ),
    "fetch": Command(
        "download published weights of judges, prompts and adapters",
        "names of judges, e.g. geneval; prompts; anchors; OWNER/NAME of an adapter",
        names=(_ANY_NUMBER,),
        examples=("geneval",),
    ),
    "lab build": Command(
        "build the laboratory's assets",
        says="loading torch",
    ),
    "lab card": Command("print the card of its assets"),
    "lab sheet": Command(
        "draw a sample sheet of its base model",
        says="loading the laboratory's model",
    ),
    "lab draw": Command(
        "draw a suite's prompts with its renderer",
        examples=("output=runs/drawn",),
        says="drawing",
    ),
    "sync": Command(
        "deliver to MLflow what it did not get, or has lost; without grid= all grids of the folder",
        examples=("output_dir=runs",),
        matter=("grid", "output_dir", "tracking"),
        says="asking MLflow",
    ),
    "completion": Command(
        "print a script that completes the command soarbench in a shell",
        "bash, zsh or fish",
        names=("SHELL",),
        examples=("bash",),
    ),
    "ui": Command(
        "serve the MLflow store as a page",
        examples=("port=5001",),
        matter=("output_dir", "tracking"),
        says="starting MLflow",
    ),
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
        code = _dispatch(list(arguments))
        # Now, and not when Python ends, which has its own words for a reader who is gone.
        sys.stdout.flush()
        return code
    except UserError as error:
        return _say(str(error), EXIT_USER_ERROR)
    except StorageError as error:
        return _say(str(error), EXIT_USER_ERROR)
    except BrokenPipeError:
        # Whoever read has enough; as rich does with what goes through it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
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
    arguments, asks_help = without_help(arguments)
    if arguments[:1] == ["help"]:
        arguments, asks_help = arguments[1:], True
    if not arguments:
        sys.stdout.write(_usage())
        return 0 if asks_help else EXIT_USER_ERROR
    if arguments[0] == "--version":
        sys.stdout.write(f"soarbench {__version__}\n")
        return 0
    pair = " ".join(arguments[:2])
    name = pair if pair in COMMANDS else arguments[0]
    if asks_help:
        sys.stdout.write(_help(name))
        return 0
    return _run(name, _command(name), arguments[len(name.split()) :])


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
    if len(family) > 1 and name not in COMMANDS:
        return _usage(family)
    command = _command(name)
    from soarbench.cli.help import filled, layout, sections

    words = " ".join([name, *command.names, *(f"[{flag}]" for flag in command.flags)])
    text = f"usage: python -m soarbench {words} [key=value ...]\n\n{filled(command.summary)}"
    text += filled(f"{', '.join(command.names)}: {command.usage}") if command.names else ""
    kind = options_of(function_of(name))
    for heading, rows in sections(kind, command.matter, command.flags):
        text += layout(heading, rows)
    text += _examples(name, command)
    others = [f"{other} --help" for other in family if other != name]
    return text + (filled(f"\nsee also: {', '.join(others)}") if others else "")


def _examples(name: str, command: Command) -> str:
    lines = "".join(f"  python -m soarbench {name} {example}\n" for example in command.examples)
    return f"\nexamples:\n{lines}" if lines else ""


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
    given = as_words(arguments, (*command.flags, CFG), name)
    flags = [text for text in given if text.startswith("-")]
    names, words = _parted([text for text in given if text not in flags], command.names)
    if len(names) < len(command.names):
        raise UserError(f"name {' and '.join(command.names)}: {name} {' '.join(command.names)}")
    if CFG not in flags and any(word.startswith("device=cuda:") for word in words):
        from soarbench.cli.named_gpu import on_named_gpu

        words = on_named_gpu(words)
    # Into a log file nobody looks while it is written, and stderr is for what is wrong.
    if command.says and sys.stderr.isatty():
        sys.stderr.write(f"{name}: {command.says} ...\n")
    # Imported now, so that help and a misspelt command answer at once.
    from rich.console import Console

    from soarbench.cli.help import CHOICES, takes
    from soarbench.cli.words import own_keys, read
    from soarbench.config.keys import Options, UnknownKeyError

    function = function_of(name)
    kind = options_of(function)
    words = with_keys(words, [group for group in CHOICES if group in takes(kind)])
    if CFG in flags:
        from soarbench.cli.cfg import configuration

        sys.stdout.write(configuration(name, kind, words))
        return 0
    choices = {
        argument: flag in flags for flag, argument in _FLAGS.items() if flag in command.flags
    }
    try:
        options = read(kind, words) if kind else [words]
        return function(*names, *options, console=Console(), **choices)
    except UnknownKeyError as error:
        # Of the settings of a run alone: the command's own keys may be nearer to what was typed.
        raise error.beside(own_keys(kind or Options)) from error
