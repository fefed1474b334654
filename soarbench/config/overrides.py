"""The words of a command line, sorted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from soarbench.config.composition import Composition, compose_choices, variant_names
from soarbench.config.folders import CONF_DIR, Folders, require_option, search_path
from soarbench.config.grammar import as_list, in_grammar, only_axes_take_several
from soarbench.config.keys import AXES, Word, split
from soarbench.config.run import is_folder_name
from soarbench.config.stages import stages

#: A task chooses its suites and a model its judges, by names of their own: ``suites.NAME.KEY``.
_CHOSEN_BY_YAML = ("suite", "judge")


@dataclass(frozen=True)
class Overrides:
    """What the command line says, sorted.

    Attributes:
        grid: The grid's name, if one is given.
        axes: For ``method`` and ``task``: the ones to keep; absent keeps all of the grid.
        groups: Choices of other groups: ``budget=standard``.
        values: Single values: ``method.aux_weight=0.5``.
        folders: Where YAML is looked for.
    """

    grid: str | None
    axes: Mapping[str, tuple[str, ...]]
    groups: tuple[str, ...]
    values: tuple[Word, ...]
    folders: Folders

    def without(self, keys: Collection[str]) -> Overrides:
        """The same without what is said of some keys."""
        return replace(self, values=tuple(one for one in self.values if one.key not in keys))

    def text(self, key: str) -> str | None:
        """What is said of a key, as typed; None where nothing or null is."""
        texts = [word.text for word in self.values if word.key == key]
        return texts[-1] if texts and texts[-1] != "null" else None

    def composed(self, *more: str) -> Composition:
        """The groups that are chosen, and more; no value is set yet."""
        grid = [] if self.grid is None else [f"grid={self.grid}"]
        if self.grid is not None:
            require_option("grid", self.grid, self.folders)
        return compose_choices([*grid, *self.groups, *more], self.folders)


def parse_overrides(words: Sequence[str]) -> Overrides:
    """Sort the settings of a command line."""
    folders = search_path(words)
    chosen: dict[str, tuple[str, ...]] = {}
    values: list[Word] = []
    for word in map(split, words):
        if word.key == CONF_DIR:
            continue
        # What is no folder of YAML may still be a key: whether it is one, compositions know.
        if word.key in _CHOSEN_BY_YAML or not any((f.path / word.key).is_dir() for f in folders):
            values.append(word)
            continue
        names = tuple(str(name) for name in as_list(in_grammar(word, takes_several=True)))
        for name in names:
            for part in stages(name) if word.key == "method" else (name,):
                is_variant = word.key == "method" and part in variant_names(folders)
                # That may be an export's, or one of a folder, whose YAML is elsewhere.
                is_a_folders = word.key == "grid" and is_folder_name(part)
                if not is_variant and not is_a_folders:
                    require_option(word.key, part, folders)
        if len(names) != 1 and word.key not in AXES:
            raise only_axes_take_several(word)
        chosen[word.key] = names
    # Of two choices of one group the last one counts, as of two values.
    grid = chosen.pop("grid", (None,))[0]
    axes = {axis: chosen.pop(axis) for axis in AXES if axis in chosen}
    groups = tuple(f"{group}={name}" for group, (name,) in chosen.items())
    return Overrides(grid, axes, groups, tuple(values), folders)
