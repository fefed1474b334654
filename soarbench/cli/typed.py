"""What was typed in another grammar than ours, as far as it can only mean one thing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from soarbench.common.errors import UserError

#: Of every command: print what its words compose, and do nothing.
CFG = "--cfg"
HELP = ("-h", "--help")


def without_help(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without ``--help``, wherever it stood, and whether it did."""
    rest = [text for text in arguments if text not in HELP]
    return rest, len(rest) < len(arguments)


def as_words(arguments: Sequence[str], flags: Collection[str], name: str) -> list[str]:
    """``--key value`` and ``--key=value`` as ``key=value``; flags stay.

    Args:
        arguments: What follows the command.
        flags: The command's own.
        name: Of the command, for messages.

    Raises:
        UserError: What begins with a dash is no flag, and has no value.
    """
    words, rest = [], list(arguments)
    while rest:
        text = rest.pop(0)
        key, sign, value = text.lstrip("-").partition("=")
        if not text.startswith("-") or text in flags:
            words.append(text)
            # Hydra's own flag of this name says what of: its job, itself, or both.
            if text == CFG and rest[:1] in (["job"], ["all"]):
                del rest[0]
            continue
        if not sign and rest and not rest[0].startswith("-") and "=" not in rest[0]:
            sign, value = "=", rest.pop(0)
        if not sign or not key:
            raise UserError(_unrecognized(text, flags, name))
        words.append(f"{key.replace('-', '_')}={value}")
    return words


def _unrecognized(text: str, flags: Iterable[str], name: str) -> str:
    close = difflib.get_close_matches(text, flags, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"unrecognized arguments: {text[:80]}; {hint}see 'python -m soarbench {name} --help', and "
        "write settings as key=value"
    )


def with_keys(words: Sequence[str], groups: Collection[str]) -> list[str]:
    """``reward_specific`` as ``grid=reward_specific``; ``UserError`` for a choice of others.

    Args:
        words: Of which some may lack their key.
        groups: Groups of YAML that the command takes a choice of.
    """
    from soarbench.config.folders import options, search_path

    bare = [word for word in words if "=" not in word]
    if not bare:
        return list(words)
    folders = search_path(word for word in words if "=" in word)
    names = {group: options(group, folders) for group in groups}
    for word in bare:
        keys = [group for group in groups if word in names[group]]
        # Any other word may be meant for several: a task, a judge and a metric are all aesthetic.
        if keys and keys[0] != "grid":
            said = " or ".join(f"{key}={word}" for key in keys)
            raise UserError(f"{word!r} needs its key: write {said}")
    grids = names.get("grid", ())
    return [f"grid={word}" if word in grids else word for word in words]
