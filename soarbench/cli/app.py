"""The command line."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence

from baselines.loop.disk import StorageError
from soarbench import __version__
from soarbench.cli.commands import ANY_NUMBER, COMMANDS, Command
from soarbench.cli.typed import CFG, as_words, with_keys, without_help
from soarbench.common.errors import UserError, printable, without_middle, without_passwords
from soarbench.common.imports import large_imports
from soarbench.common.logs import set_levels

if typing.TYPE_CHECKING:
    from soarbench.config.keys import Options

EXIT_USER_ERROR = 2
#: As a shell says of what SIGINT ended: 128 + 2.
EXIT_INTERRUPTED = 130
_LONGEST_LINE = 300
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Flags, and the arguments that they become.
_FLAGS = {"--dry-run": "is_dry", "--json": "as_json"}


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
        # Of the machine, not of the program, where it names a file: no traceback says more. What
        # is written to a full disk names none.
        if error.errno in _FULL:
            return _say(
                f"{error.strerror}: make room, then give the same command again", EXIT_USER_ERROR
            )
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
    from soarbench.cli.help import chosen_by, filled, layout, sections

    words = " ".join([name, *command.names, *(f"[{flag}]" for flag in command.flags)])
    text = f"usage: python -m soarbench {words} [key=value ...]\n\n{filled(command.summary)}"
    text += filled(f"{', '.join(command.names)}: {command.usage}") if command.names else ""
    kind = options_of(function_of(name))
    chosen = chosen_by(command.chooses)
    for heading, rows in sections(kind, command.matter, command.flags, chosen):
        text += layout(heading, rows)
    text += _examples(name, command)
    others = [f"{other} --help" for other in family if other != name]
    return text + (filled(f"\nsee also: {', '.join(others)}") if others else "")


def _examples(name: str, command: Command) -> str:
    lines = "".join(f"  python -m soarbench {name} {example}\n" for example in command.examples)
    return f"\nexamples:\n{lines}" if lines else ""


def _parted(texts: Sequence[str], names: Sequence[str]) -> tuple[list[object], list[str]]:
    """What comes before the words, and the words."""
    if names == (ANY_NUMBER,):
        return [[t for t in texts if "=" not in t]], [t for t in texts if "=" in t]
    return [*texts[: len(names)]], [*texts[len(names) :]]


def function_of(name: str) -> Callable[..., int]:
    """What a command calls; its module is imported."""
    path = COMMANDS[name].function or f"soarbench.cli.{name.split()[0]}:{name.split()[-1]}"
    module, _, function = path.partition(":")
    with large_imports():
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
