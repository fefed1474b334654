"""The documentation as a site, in ``build/site``; exit code 1 at any warning (``make docs``).

Pages come together in ``build/docs``: those of ``docs/`` at the top, what else of the repository
they link beside them, and the reference, which is written here from the command line, the YAML, the
docstrings and the estimates of ``run --dry-run``. Zensical makes a site of it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from soarbench.cli.app import function_of, options_of
from soarbench.cli.commands import COMMANDS
from soarbench.cli.help import default_of, root_values
from soarbench.common.docstrings import attributes, summary
from soarbench.common.plugins import conf_folders
from soarbench.common.strict import TARGET, imported, is_needed, typed_fields
from soarbench.config.composition import registered
from soarbench.config.folders import options
from soarbench.config.keys import members
from soarbench.config.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS, SOURCE, SITE = ROOT / "docs", ROOT / "build/docs", ROOT / "build/site"
#: Pages outside of docs/ that nothing links, but the navigation.
OTHER_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "results/lab/README.md")
#: What plug-ins derive from and what tools of others would import.
MODULES = (
    "baselines.base", "baselines.config", "baselines.flow", "evaluators.base",
    "soarbench.config.suites", "soarbench.data.config", "soarbench.data.forms",
    "soarbench.data.prompts", "soarbench.models.base", "soarbench.launchers.base",
    "soarbench.stats.intervals", "soarbench.stats.significance", "soarbench.stats.power",
)  # fmt: skip
#: Groups of YAML, in the order in which a newcomer meets them.
GROUPS = (
    "grid", "budget", "task", "method", "recipe", "protocol", "model", "data", "suite", "judge",
    "diversity", "launcher", "tracking",
)  # fmt: skip
_LINK = re.compile(r"(\]\()([^)\s]+)")
CODE = re.compile(r"(^```.*?^```$)", re.M | re.S)
_IMAGE = re.compile(r"(<img src=\")([^\"]+)")


def main() -> int:
    """Write the sources and build the site."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    copy_pages([*DOCS.rglob("*.md"), *(ROOT / name for name in OTHER_PAGES)])
    for name, text in {**commands(), **settings(), **python(), **budgets()}.items():
        page = SOURCE / "reference" / name
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text)
    (ROOT / "build/external_links.txt").write_text("".join(f"{one}\n" for one in external_links()))
    command = ["zensical", "build", "--strict", "--clean", "-f", str(ROOT / "zensical.toml")]
    built = subprocess.run([sys.executable, "-m", *command], check=False, cwd=ROOT)
    return built.returncode


def external_links() -> list[str]:
    """Every address that leads out of the site; nobody follows them here."""
    pages = [page.read_text() for page in SOURCE.rglob("*.md")]
    return sorted({t for text in pages for t in targets(text) if t.startswith("http")})


def copy_pages(pages: Iterable[Path]) -> None:
    """Copy pages and everything of the repository that they lead to."""
    waiting, copied = list(pages), set[Path]()
    while waiting:
        page = waiting.pop()
        if page in copied:
            continue
        copied.add(page)
        target = SOURCE / place_of(page)
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix != ".md":
            shutil.copyfile(page, target)
            continue
        text = page.read_text()
        waiting += linked_files(text, page)
        target.write_text(relinked(text, page))


def place_of(path: Path) -> Path:
    """Where a file of the repository lies in the site: what is in docs/ at the top."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT)


def targets(text: str) -> list[str]:
    """What a page links or shows, without what stands in its code."""
    prose = CODE.sub("", text)
    return [m[2] for pattern in (_LINK, _IMAGE) for m in pattern.finditer(prose)]


def is_outside(target: str) -> bool:
    """Whether a link leaves the repository, or stays on its page."""
    return target.startswith(("http://", "https://", "mailto:", "#"))


def linked_files(text: str, page: Path) -> list[Path]:
    """The files that a page leads to; those of the reference are not there yet."""
    files = [page.parent / t.partition("#")[0] for t in targets(text) if not is_outside(t)]
    paths = [Path(os.path.normpath(path)) for path in files]
    written = [path for path in paths if not path.is_relative_to(DOCS / "reference")]
    for path in written:
        if not path.is_file():
            raise SystemExit(f"{page.relative_to(ROOT)}: links {path}, which is no file")
    return written


def relinked(text: str, page: Path) -> str:
    """A page's text with links as the site has its files."""
    here = place_of(page).parent

    def moved(match: re.Match[str]) -> str:
        target, sign, anchor = match[2].partition("#")
        if is_outside(match[2]):
            return match[0]
        path = Path(os.path.normpath(page.parent / target))
        return f"{match[1]}{os.path.relpath(place_of(path), here)}{sign}{anchor}"

    parts = CODE.split(text)
    parts[::2] = [_IMAGE.sub(moved, _LINK.sub(moved, part)) for part in parts[::2]]
    return "".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(c).replace("|", "\\|").replace("\n", " ") for c in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def written_default(entry: dataclasses.Field[object]) -> str:
    """A field's default as it is typed."""
    if is_needed(entry):
        return "needed"
    default = default_of(entry)
    return f"`{default}`".replace(f"{ROOT}/", "") if default else "its own"


def fields_table(kind: type, prefix: str = "") -> str:
    """A table of a dataclass's settings; empty where it has none."""
    texts = attributes(kind)
    rows = [
        (f"`{prefix}{name}`", written_default(entry), texts.get(name, ""))
        for name, (_, entry) in typed_fields(kind).items()
    ]
    return table(("key", "default", "what it is"), rows) if rows else ""


def commands() -> dict[str, str]:
    """A page of every command: its words, flags and own settings."""
    text = "# Commands\n\n`python -m soarbench COMMAND --help` says the same in a terminal.\n"
    for name, command in COMMANDS.items():
        words = [name, *command.names, *(f"[{flag}]" for flag in command.flags)]
        text += f"\n## {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n\n"
        text += f"```\npython -m soarbench {' '.join(words)} [key=value ...]\n```\n\n"
        text += (
            f"{' and '.join(command.names)}: {_escaped(command.usage)}.\n\n"
            if command.usage
            else ""
        )
        kind = options_of(function_of(name))
        text += fields_table(kind) if kind else ""
        shown = "".join(f"python -m soarbench {name} {words}\n" for words in command.examples)
        text += f"\n```sh\n{shown}```\n" if shown else ""
    return {"commands.md": text}


def _escaped(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]").replace("*", "\\*").replace("|", "\\|")


def settings() -> dict[str, str]:
    """The settings of a run, and a page for every group of YAML."""
    text = (
        "# Settings of a run\n\nWhat `run` and the commands about runs take as `key=value`. Where "
        "a group is a class that a YAML file chooses, its keys stand on the page of that group. A "
        "default of the class counts only where no YAML file says another value.\n\n"
    )
    text += table(("key", "chosen or set to", "what it is"), _top_rows())
    for key, (hint, _) in typed_fields(Settings).items():
        kinds = [kind for kind in members(hint) if dataclasses.is_dataclass(kind)]
        for kind in kinds:
            if key not in GROUPS:
                text += f"\n## {key}\n\n{summary(kind)}\n\n{fields_table(kind, f'{key}.')}"
    return {"settings.md": text} | {f"yaml/{group}.md": yaml_page(group) for group in GROUPS}


def _top_rows() -> Iterator[tuple[str, str, str]]:
    """The settings at the top, and what ``config.yaml`` makes of each."""
    values = root_values()
    texts = attributes(Settings)
    for name, (_, entry) in typed_fields(Settings).items():
        group = "suite" if name == "suites" else name
        value = f"`{values[name]}`" if name in values else "by YAML"
        shown = f"[{value}](yaml/{group}.md)" if group in GROUPS else value
        yield f"`{name}`", shown if is_needed(entry) else written_default(entry), texts[name]


def yaml_page(group: str) -> str:
    """All YAML files of a group as they stand, and the settings of the classes they name."""
    text = f"# {group}=\n\n"
    held, is_whole = typed_fields(Settings).get(group), group in ("judge", "suite", "diversity")
    named = registered(group, conf_folders()) if is_whole else {}
    targets_of = [str(value[TARGET]) for value in named.values() if TARGET in value]
    for folder in conf_folders():
        for path in sorted((folder.path / group).rglob("*.yaml")):
            content = path.read_text()
            name = path.relative_to(folder.path / group).with_suffix("")
            text += f"## {name}\n\n"
            text += f"`{path.relative_to(ROOT)}`\n\n```yaml\n{content}```\n\n"
            targets_of += re.findall(rf"{TARGET}: (\S+)", content)
    plain = [kind for kind in members(held[0]) if dataclasses.is_dataclass(kind)] if held else []
    kinds = [imported(path, TARGET) for path in dict.fromkeys(targets_of)]
    for kind in kinds or plain:
        assert isinstance(kind, type)
        prefix = f"{'suites' if group == 'suite' else group}.{'NAME.' if is_whole else ''}"
        text += f"## {kind.__name__}\n\n{summary(kind)}\n\n{fields_table(kind, prefix)}\n"
    return text


def python() -> dict[str, str]:
    """What a package of others derives from, by its docstrings."""
    pages = {f"python/{name}.md": f"# {name}\n\n::: {name}\n" for name in MODULES}
    listed = "".join(f"- [{name}](python/{name}.md)\n" for name in MODULES)
    return {"python.md": f"# Python\n\nMade from docstrings.\n\n{listed}"} | pages


def budgets() -> dict[str, str]:
    """Time and disk of every published grid, as ``run --dry-run`` estimates them."""
    rows, machines = [], {}
    for words in _published():
        time, disk, machine = estimate(words)
        number = machines.setdefault(machine, len(machines) + 1)
        shown = " ".join(word for word in words if "=/" not in word)
        rows.append((f"`{shown}`", f"{time} ({number})", disk))
    notes = "".join(f"{number}. Rates of {machine}.\n" for machine, number in machines.items())
    return {
        "budgets.md": "# Time and disk of every grid\n\nWhat `python -m soarbench run ... "
        "--dry-run` says with nothing done yet and one worker, computed when this page was built. "
        "Before you start, ask it on your machine: it knows what is there already, and how much "
        "disk is free. "
        "`python -m soarbench plan` says the memory of each method.\n\n"
        + table(("words of `run`", "time, one device", "disk"), rows)
        + f"\n{notes}"
    }


def _published() -> Iterator[list[str]]:
    """Every grid with the laboratory's budgets, and with SD3.5-Medium as published."""
    for grid in options("grid"):
        # Trials have a length of their own.
        for budget in ("tuning",) if grid.startswith("tuning") else ("quick", "standard"):
            yield [f"grid={grid}", f"budget={budget}"]
    for grid in ("main_table", "reward_specific", "soar_then_grpo", "rivals"):
        yield [f"grid={grid}", "model=sd35_medium"]


def estimate(words: Sequence[str]) -> tuple[str, str, str]:
    """Time, disk and whose rates these are."""
    from soarbench.cli.disk import disk_need
    from soarbench.grid.expand import expand
    from soarbench.jobs.graph import all_jobs
    from soarbench.launchers.run_grid import estimates

    with tempfile.TemporaryDirectory() as folder:
        grid = expand([*words, f"output_dir={folder}", *_own_files(words, Path(folder))])
        jobs = all_jobs(grid)
        seconds = sum(estimates(grid, jobs).values())
        need = disk_need(grid, jobs)
    hours = f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
    time = f"{seconds / 60:.0f} min" if seconds < 5400 else hours
    gigabytes = f"{need.total / 1e9:.1f} GB" + "".join(f" and {u}" for u in need.unknown)
    return time, gigabytes, grid.settings.budget.rates.machine


def _own_files(words: Sequence[str], folder: Path) -> list[str]:
    """Stand-ins for what is not ours to ship: as many prompts as published, and one image's row."""
    if "model=sd35_medium" not in words:
        return []
    suites: Mapping[str, Mapping[str, object]] = registered("suite", conf_folders())
    rows = folder / "rows.jsonl"
    rows.write_text('{"image": "0.png", "caption": "a cat"}\n')
    given = [f"data.path={rows}"]
    for name in ("drawbench", "ocr") if "grid=main_table" in words else ("drawbench",):
        count = int(str(suites[name]["prompts_published"]))
        path = folder / f"{name}.txt"
        path.write_text("".join(f'number {i} says "{i}"\n' for i in range(count)))
        given.append(f"suites.{name}.prompts={path}")
    return given


if __name__ == "__main__":
    sys.exit(main())
