"""``--help`` of a command, from its class of options, the settings' classes and the YAML."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pkgutil import resolve_name

import yaml

from soarbench.common.docstrings import attributes
from soarbench.common.plugins import OWN
from soarbench.common.strict import is_needed, typed_fields
from soarbench.config.folders import CONF_DIR, options
from soarbench.config.keys import Options, children, members
from soarbench.config.settings import Settings

#: Groups of YAML that a command line chooses from, in the order in which a newcomer meets them.
CHOICES = ("grid", "budget", "task", "method", "model", "data", "launcher", "tracking")
#: Columns of a key, before what it is.
_KEY_WIDTH = 22
_FLAGS = {
    "--dry-run": "say what would be done, and how long it takes",
    "--json": "for programs",
    "--cfg": "print the configuration that these words compose, every key of it, and do nothing",
    "--help": "this",
}


def root_values() -> dict[str, object]:
    """What the root file chooses and sets, by the first part of each key."""
    values = yaml.safe_load((OWN / "config.yaml").read_text())
    for group in values.pop("defaults"):
        values |= group if isinstance(group, dict) else {}
    # What follows from other choices is nobody's to choose.
    return {name: value for name, value in values.items() if not str(value).startswith("${model}")}


def default_of(entry: dataclasses.Field[typing.Any]) -> str:
    """A field's default as it is typed; empty where it has none, or a group of its own."""
    if is_needed(entry):
        return ""
    default = entry.default
    if default is dataclasses.MISSING:
        assert entry.default_factory is not dataclasses.MISSING
        default = entry.default_factory()
    return "" if dataclasses.is_dataclass(default) else written(default)


def written(value: object) -> str:
    """A value as it is typed."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(written, value))}]"
    return str(value)


def takes(kind: type[Options] | None) -> tuple[str, ...]:
    """The settings of a run that a command takes, by their first part."""
    every = tuple(typed_fields(Settings))
    if kind is None or kind.settings is None:
        return every
    return tuple(name for name in every if name in kind.settings)


def chosen_by(places: Iterable[str]) -> dict[str, str]:
    """What a command sets where the command line is silent, by key; see ``Command.chooses``."""
    words: list[str] = []
    for place in places:
        words += [place] if "=" in place else resolve_name(place)
    return {key: text for key, _, text in (word.partition("=") for word in words)}


def sections(
    kind: type[Options] | None,
    matter: Sequence[str],
    flags: Iterable[str],
    chosen: Mapping[str, str],
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What a command takes: headings, each with keys and what they are.

    Args:
        kind: The command's own options; None: it has none.
        matter: First parts of the settings that are worth a line; empty: all.
        flags: The command's own.
        chosen: Values that the command itself sets, by key.
    """
    shown = [name for name in takes(kind) if not matter or name in matter]
    yield "its own keys", list(_own(kind)) if kind else []
    yield (
        "choices, a YAML file each (ls explains them)",
        [*_choices(shown, chosen), *_more_yaml(kind)],
    )
    yield "settings, with their defaults", list(_settings(shown, chosen))
    yield "flags", [(flag, _FLAGS[flag]) for flag in (*flags, "--cfg", "--help")]


def _own(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    texts = attributes(kind)
    for name, (hint, entry) in typed_fields(kind).items():
        below = children(hint, {}, name)[1]
        if isinstance(below, type) and dataclasses.is_dataclass(below):
            yield from _own(below, f"{prefix}{name}.NAME.")
        else:
            key = f"{prefix}{name}.NAME" if below is not None else f"{prefix}{name}"
            yield f"{key}=", _with_default(texts.get(name, ""), default_of(entry))


def own_keys_of(kind: type[Options]) -> list[str]:
    """A command's own keys; those below a name of the user's are left out."""
    return [key.rstrip("=") for key, _ in _own(kind) if "NAME" not in key]


def _with_default(text: str, default: str) -> str:
    return f"{text} Default: {default}" if default else text


def _choices(shown: Sequence[str], chosen: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    # The grid that the root file chooses is for commands that need none.
    of_grid = {"grid": "", "task": "all of the grid's", "method": "all of the grid's"}
    defaults = {**root_values(), **of_grid, **chosen}
    for group in CHOICES:
        if group in shown:
            text = f"{', '.join(options(group))}."
            yield f"{group}=", _with_default(text, str(defaults.get(group, "")))


def _more_yaml(kind: type[Options] | None) -> Iterator[tuple[str, str]]:
    """The key that no setting of a run is, and that every command takes which reads YAML."""
    if kind is None or kind.settings is None or CONF_DIR in kind.settings:
        yield (
            f"{CONF_DIR}=",
            "A folder of your own YAML, laid out as the package's: its choices stand beside these.",
        )


def _settings(shown: Sequence[str], chosen: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    texts, values = attributes(Settings), {**root_values(), **chosen}
    for name in shown:
        hint, entry = typed_fields(Settings)[name]
        kinds = [kind for kind in members(hint) if dataclasses.is_dataclass(kind)]
        if kinds:
            keys = ", ".join(typed_fields(typing.cast(type, kinds[0])))
            text = f"{texts[name]} Keys: {keys or 'those of the choice, see --cfg'}."
            yield f"{name}.KEY=", _with_default(text, _below(name, chosen))
        else:
            default = written(values[name]) if name in values else default_of(entry)
            yield f"{name}=", _with_default(texts[name], default)


def _below(group: str, chosen: Mapping[str, str]) -> str:
    """What a command sets of a group's keys."""
    keys = [key for key in chosen if key == group or key.startswith(f"{group}.")]
    return " ".join(f"{key}={chosen[key]}" for key in keys if key not in CHOICES)


def filled(text: str) -> str:
    """A line, wrapped to the terminal's width."""
    return textwrap.fill(text, _width(), replace_whitespace=False, break_on_hyphens=False) + "\n"


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 60)


def layout(heading: str, rows: Sequence[tuple[str, str]]) -> str:
    """A section as wide as the terminal."""
    if not rows:
        return ""
    lines = [f"\n{heading}:"]
    for key, text in rows:
        indent = " " * (_KEY_WIDTH + 2)
        head = f"  {key:<{_KEY_WIDTH - 1}} "
        # A key that is too long has a line of its own.
        if len(head) > len(indent):
            lines.append(f"  {key}")
            head = indent
        wrapped = textwrap.wrap(
            text.replace("``", "") or "-", _width(), initial_indent=head, subsequent_indent=indent,
            break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
        lines += wrapped
    return "\n".join(lines) + "\n"
