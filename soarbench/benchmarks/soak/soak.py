"""``python -m soarbench soak``: a grid that is killed again and again gives the same numbers."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console

from soarbench.benchmarks.soak.chain import Killer, run_straight
from soarbench.benchmarks.soak.comparison import RunFolder
from soarbench.benchmarks.soak.nodes import RayNodes, require_ray
from soarbench.benchmarks.tables import number_table, this_machine
from soarbench.common.errors import UserError
from soarbench.common.files import make_writable, read_json, write_json
from soarbench.common.progress import print_line
from soarbench.common.provenance import command_line, git_commit
from soarbench.config.keys import Options, split
from soarbench.grid.expand import expand

#: The smallest grid with a training, diagnostics and a table; the last of two words of a key wins.
DEFAULTS = (
    "grid=reward_specific", "task=aesthetic", "method=[sft]", "budget.steps=6",
    "budget.num_snapshots=2", "budget.save_steps=2", "budget.images_per_prompt=1",
    "budget.max_prompts=3", "figure_formats=[png]",
)  # fmt: skip
#: At least, and one more than at most.
_KILLS_OF_CHAIN = (4, 21)
RUN = (sys.executable, "-m", "soarbench", "run")


@dataclass(frozen=True)
class Form:
    """A way to run a grid: its words, and those of the run that it is compared with.

    ``has_nodes``: it joins a cluster of two nodes, of which one is killed as a whole.
    """

    words: tuple[str, ...]
    straight: tuple[str, ...] = ("launcher=local", "launcher.workers=1")
    has_nodes: bool = False


FORMS: Mapping[str, Form] = {
    "local": Form(("launcher=local", "launcher.workers=2")),
    # Two processes add up a gradient in another order than one does.
    "processes": Form(
        ("launcher=local", "launcher.workers=1", "launcher.num_processes=2"),
        ("launcher=local", "launcher.workers=1", "launcher.num_processes=2"),
    ),
    "ray": Form(("launcher=ray",)),
    "ray_nodes": Form(("launcher=ray",), has_nodes=True),
}


@dataclass(frozen=True, kw_only=True)
class SoakOptions(Options):
    """What ``soak`` takes beside the settings of a run.

    Attributes:
        output_dir: Runs, and ``soak.json``; a soak that is repeated there goes on.
        kills: In all, over all launchers.
        launchers: Of ``FORMS``.
        seed: Of moments and victims.
        minutes: After which nothing is killed any more; null: all kills are made.
    """

    example: ClassVar[str] = "output_dir=/tmp/soak"

    output_dir: str
    kills: int = 200
    launchers: tuple[str, ...] = tuple(FORMS)
    seed: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name in self.launchers:
            if name not in FORMS:
                raise ValueError(f"launchers={name}: is none; choose of {', '.join(FORMS)}")
        if not self.launchers:
            raise ValueError("launchers=[]: name one or more")
        if self.kills < 1:
            raise ValueError(f"kills={self.kills}: must be 1 or more")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes}: must be more than 0")


@dataclass
class Soak:
    """A record of chains, which is written after each of them."""

    path: Path
    facts: Mapping[str, object]
    seconds: dict[str, float] = field(default_factory=dict)
    chains: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def at(cls, path: Path, facts: Mapping[str, object]) -> Soak:
        """The record of a path, or a first one; ``UserError`` where it is of another soak."""
        if not path.is_file():
            return cls(path, facts)
        stored: dict[str, Any] = read_json(path)
        older = stored.get("facts")
        known = older if isinstance(older, dict) else {}
        unlike = [key for key in ("words", "commit") if known.get(key) != facts[key]]
        if unlike:
            raise UserError(f"{path} is of other {', '.join(unlike)}; choose another output_dir")
        return cls(path, stored["facts"], stored["seconds"], stored["chains"])

    def write(self) -> None:
        """Put it onto the disk."""
        write_json(
            self.path,
            {
                "facts": dict(self.facts),
                "seconds": self.seconds,
                "counts": self.counts(),
                "chains": self.chains,
            },
        )

    def kills(self, launcher: str | None = None) -> list[dict[str, Any]]:
        """Of a launcher, or all."""
        return [
            kill
            for chain in self.chains
            if launcher in (None, chain["launcher"])
            for kill in chain["kills"]
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Kills by launcher, victim, moment, and by what was running."""
        kills = self.kills()
        return {
            "launcher": {name: len(self.kills(name)) for name in FORMS if self.kills(name)},
            "victim": dict(Counter(kill["victim"] for kill in kills)),
            "moment": dict(Counter(kill["moment"] for kill in kills)),
            "running": dict(Counter(sort for kill in kills for sort in sorts_of(kill["running"]))),
        }

    @property
    def faults(self) -> list[str]:
        """Of all chains."""
        return [f"{chain['name']}: {text}" for chain in self.chains for text in chain["faults"]]


def sorts_of(running: Sequence[str]) -> set[str]:
    """Of jobs: ``soar seed 0: judge lab_geneval at step 6 1/3`` is ``judge``."""
    return {text.rpartition(": ")[2].split()[0] for text in running} or {"no job"}


def soak(options: SoakOptions, words: Sequence[str], *, console: Console) -> int:
    """Kill a grid at random moments, and compare. -> 1 when anything was unlike."""
    return soak_command(options, words, RUN, console)


def soak_command(
    options: SoakOptions, words: Sequence[str], command: Sequence[str], console: Console
) -> int:
    """As ``soak``, of any command that takes the words of ``run``."""
    keys = {split(word).key for word in words}
    words = [*(word for word in DEFAULTS if split(word).key not in keys), *words]
    for name in options.launchers:
        if "launcher=ray" in FORMS[name].words:
            require_ray()
        # A word that cannot work is said before anything runs.
        expand([*words, *FORMS[name].words])
    root = Path(options.output_dir).expanduser().resolve()
    make_writable(root, "output_dir")
    facts = {
        "machine": this_machine(), "cpus": os.cpu_count(), "commit": git_commit(),
        "command": command_line(), "words": words,
    }  # fmt: skip
    record = Soak.at(root / "soak.json", facts)
    with contextlib.ExitStack() as stack:
        killers = _killers(options, [*command, *words], record, console, stack)
        _kill_all(options, killers, record, console)
    _summarise(record, console)
    return 1 if record.faults else 0


def _kill_all(
    options: SoakOptions, killers: Mapping[str, Killer], record: Soak, console: Console
) -> None:
    """Run chains until all kills are made, or the time is over."""
    start, first = time.monotonic(), len(record.kills())
    until = min(killer.until for killer in killers.values())
    while len(record.kills()) < options.kills and time.monotonic() < until:
        _next_chain(options, killers, record)
        done, total = len(record.kills()), options.kills
        left = (time.monotonic() - start) / max(done - first, 1) * max(total - done, 0)
        left = max(min(left, until - time.monotonic()), 0.0)
        line = f"{_line(record.chains[-1])}; {done} of {total} kills, {left / 60:.0f} minutes left"
        print_line(console, line)


def _killers(
    options: SoakOptions,
    command: Sequence[str],
    record: Soak,
    console: Console,
    stack: contextlib.ExitStack,
) -> dict[str, Killer]:
    """Who kills each launcher's runs; the straight ones are run first, where they are missing."""
    until = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    killers = {}
    for name in options.launchers:
        form = FORMS[name]
        folder, seconds = _straight(name, command, record, console)
        nodes = stack.enter_context(RayNodes(record.path.parent)) if form.has_nodes else None
        address = () if nodes is None else (f"launcher.address={nodes.address}",)
        killers[name] = Killer(
            command=(*command, *form.words, *address),
            straight=folder,
            seconds=seconds,
            until=until,
            nodes=nodes,
        )
    return killers


def _straight(
    name: str, command: Sequence[str], record: Soak, console: Console
) -> tuple[RunFolder, float]:
    """The run that a launcher's chains are compared with, and its seconds; run if it is missing."""
    words = FORMS[name].straight
    key = " ".join(words)
    # Launchers share it.
    first = next(one for one, form in FORMS.items() if form.straight == words)
    folder = RunFolder(record.path.parent / f"straight-{first}")
    if key not in record.seconds:
        print_line(console, f"straight run: {key}")
        shutil.rmtree(folder.root, ignore_errors=True)
        try:
            record.seconds[key] = run_straight([*command, *words], folder)
        except ChildProcessError as error:
            raise UserError(f"the grid fails without a kill, too: {error}") from error
        record.write()
    return folder, record.seconds[key]


def _next_chain(options: SoakOptions, killers: Mapping[str, Killer], record: Soak) -> None:
    """One more chain, of the launcher with the fewest kills."""
    index = len(record.chains)
    launcher = min(options.launchers, key=lambda name: len(record.kills(name)))
    rng = np.random.default_rng((options.seed, index))
    name = f"chain-{index:04d}"
    folder = RunFolder(record.path.parent / name)
    # Of a soak that was itself ended.
    shutil.rmtree(folder.root, ignore_errors=True)
    limit = min(int(rng.integers(*_KILLS_OF_CHAIN)), options.kills - len(record.kills()))
    chain = killers[launcher].run(folder, rng, limit)
    record.chains.append({"name": name, "launcher": launcher, **asdict(chain)})
    record.write()
    # What is unlike is kept, to be looked at.
    if not chain.faults:
        shutil.rmtree(folder.root)


def _line(chain: Mapping[str, Any]) -> str:
    faults = chain["faults"]
    end = f"{len(faults)} faults, e.g. {faults[0]}" if faults else "identical"
    count, seconds = len(chain["kills"]), chain["seconds"]
    return f"{chain['name']} ({chain['launcher']}): {count} kills in {seconds:.0f} s, {end}"


def _summarise(record: Soak, console: Console) -> None:
    for title, counts in record.counts().items():
        rows = ((name, str(count)) for name, count in sorted(counts.items()))
        console.print(number_table(f"Kills by {title}", (title, "kills"), rows))
    compared = [chain for chain in record.chains if chain["is_compared"]]
    for fault in record.faults:
        print_line(console, f"UNLIKE {fault}", "red")
    print_line(
        console,
        f"{len(record.kills())} kills, {len(compared)} comparisons, {len(record.faults)} faults "
        f"in {len({chain['name'] for chain in record.chains if chain['faults']})} of "
        f"{len(record.chains)} chains; {record.path}",
    )
