"""Images of any model, matched with the prompts of a suite; nothing is decoded here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from evaluators.images import SUFFIXES
from evaluators.samples import CoverageError, SampleFile, check_counts
from soarbench.common.errors import UserError
from soarbench.data.prompts import PromptItem, PromptSuite
from soarbench.evaluation.suites import read_entry, read_object

_NUM_SHOWN = 5


def prompts_digest(files: Iterable[SampleFile], suite: PromptSuite) -> str:
    """The suite's digest, as a run has it, where all prompts are the suite's; else one of them."""
    rows = {(file.prompt_id, file.prompt, _demands(file.metadata)) for file in files}
    if rows <= {(item.prompt_id, item.prompt, _demands(item.metadata)) for item in suite.items}:
        # A file that repeats a prompt asks no more of a model than one that does not.
        items = {item.prompt: item for item in suite.items}
        return PromptSuite(suite.name, tuple(items.values())).sha256
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def _demands(metadata: Mapping[str, object]) -> str:
    """What GenEval's verdict depends on; other tools write more beside it."""
    return json.dumps([metadata.get(key) for key in ("tag", "include", "exclude")])


def find_images(
    images: Path, suite: PromptSuite, images_per_prompt: int | None, *, is_exact: bool = True
) -> list[SampleFile]:
    """List the images to be scored, each with its prompt's id and what is known of the prompt.

    Args:
        images: GenEval's official folders, a ``.jsonl`` file, or a plain folder whose images follow
            the suite's prompts, in the order of the numbers in their names.
        suite: Its prompts must be covered; without any, those that the images come with are taken.
        images_per_prompt: Wanted of each; None: as many as the first prompt has.
        is_exact: False takes what is there of the suite's prompts, and others beside them; of a
            plain folder, whose images nothing names but their number, it changes nothing.

    Raises:
        UserError: Nothing is there, or it has another form.
        CoverageError: Images or prompts are missing or too many.
    """
    if images.is_file() and images.suffix != ".jsonl":
        raise UserError(f"images={images}: give a folder, or a .jsonl file")
    if not images.exists():
        raise UserError(f"images={images}: no such folder")
    if images.is_file():
        files = _listed(images)
    elif folders := sorted(p for p in images.iterdir() if p.is_dir() and p.name.isdigit()):
        files = [file for folder in folders for file in _official(folder)]
    else:
        return _numbered(_plain(images, suite.items, images_per_prompt))
    # 544 of 553 prompts were evaluated, and nobody was told (Meissonic issue 39).
    if is_exact and suite.items:
        _require_covered(files, suite.items)
    # The suite's own ids, so that scores can be paired with a run's; others come after all these.
    ids = {item.prompt: item.prompt_id for item in suite.items}
    others = dict.fromkeys(file.prompt for file in files if file.prompt not in ids)
    ids |= {text: f"{suite.name}/{i:05d}" for i, text in enumerate(others, len(suite.items))}
    named = [dataclasses.replace(file, prompt_id=ids[file.prompt]) for file in files]
    present = list(dict.fromkeys(file.prompt_id for file in named))
    check_counts(named, present, images_per_prompt=images_per_prompt)
    return _numbered(named)


def _numbered(files: Sequence[SampleFile]) -> list[SampleFile]:
    """The files, each with its place among the images of its prompt."""
    counts: Counter[str] = Counter()
    numbered = []
    for file in files:
        numbered.append(dataclasses.replace(file, image_index=counts[file.prompt_id]))
        counts[file.prompt_id] += 1
    return numbered


def _official(folder: Path) -> list[SampleFile]:
    source = folder / "metadata.jsonl"
    if not source.is_file():
        raise UserError(f"no {source}: it must hold the prompt of {folder}")
    lines = [line for line in source.read_bytes().splitlines() if line.strip()]
    if len(lines) != 1:
        raise UserError(f"{source} has {len(lines)} entries; it must hold exactly one")
    entry = read_entry(lines[0], str(source))
    paths = _image_paths(folder / "samples")
    if not paths:
        raise CoverageError(f"{folder / 'samples'} has no image of {entry['prompt']!r}")
    return [_file(f"{folder.name}/{path.stem}", path, entry) for path in paths]


def _image_paths(folder: Path) -> list[Path]:
    """Images directly in a folder, by the numbers in their names."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    # To open a pipe would wait for ever.
    paths = (path for path in files if not path.is_fifo())
    # Of 1.png and 01.png, which have one number, the file system would say which comes first.
    return sorted(paths, key=lambda path: (_natural(path.name), path.name))


def _natural(name: str) -> list[tuple[int, str]]:
    # As texts, 10.png comes before 9.png, and images would be judged by each other's prompts.
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", name)]


def _file(sample_id: str, path: Path, entry: Mapping[str, object]) -> SampleFile:
    prompt = str(entry["prompt"])
    return SampleFile(
        sample_id=sample_id, prompt_id=prompt, prompt=prompt, path=path, metadata=entry
    )


def _listed(source: Path) -> list[SampleFile]:
    files = []
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{source} line {number}"
        name, entry = _image_and_entry(read_object(line, where), where)
        if not (source.parent / name).is_file():
            raise UserError(f"{where}: image {name!r} is no file beside {source.name}")
        files.append(_file(name, source.parent / name, entry))
    counts = Counter(file.sample_id for file in files)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        # Padded duplicates were averaged into published numbers.
        raise CoverageError(f"{source} lists images more than once: {_shown(twice)}")
    if not files:
        raise UserError(f"no images to score in {source}: it has no lines")
    return files


def _image_and_entry(line: Mapping[str, object], where: str) -> tuple[str, dict[str, object]]:
    """The image's name, and prompt and metadata, which stand beside it or under ``metadata``."""
    name, nested = line.get("image"), line.get("metadata", {})
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: image is {name!r}; it must be the path of an image")
    if not isinstance(nested, dict):
        raise UserError(f"{where}: metadata is {nested!r}; it must be an object")
    beside = {key: value for key, value in line.items() if key not in ("image", "metadata")}
    for key in beside.keys() & nested.keys():
        if beside[key] != nested[key]:
            raise UserError(
                f"{where}: {key} is {beside[key]!r}, but {nested[key]!r} in its metadata; make "
                "them equal or remove one"
            )
    return name, read_entry(json.dumps({**beside, **nested}), where)


def _require_covered(files: Sequence[SampleFile], items: Sequence[PromptItem]) -> None:
    """Refuse missing and surplus prompts, and metadata that is not the suite's."""
    texts = list(dict.fromkeys(item.prompt for item in items))
    there = {file.prompt for file in files}
    missing = [text for text in texts if text not in there]
    extra = sorted(there - set(texts))
    if missing or extra:
        raise CoverageError(
            f"not the {len(texts)} prompts of the suite: {len(missing)} missing "
            f"({_shown(missing)}), {len(extra)} too many ({_shown(extra)}); add them, or say "
            "coverage=found"
        )
    demands = {item.prompt: _demands(item.metadata) for item in items if "tag" in item.metadata}
    for file in files:
        # An edited file of demands would make a task easier under the same name.
        if file.prompt in demands and _demands(file.metadata) != demands[file.prompt]:
            raise CoverageError(
                f"{file.sample_id}: the metadata of {file.prompt!r} is not the suite's; "
                "correct it, or say coverage=found"
            )


def _plain(
    folder: Path, items: Sequence[PromptItem], images_per_prompt: int | None
) -> list[SampleFile]:
    paths = _image_paths(folder)
    if not paths:
        raise UserError(
            f"no images to score in {folder}: expected 00000/samples/0000.png (GenEval's layout) "
            "or images beside each other"
        )
    if not items:
        raise UserError(
            f"images={folder} has {len(paths)} images without prompts; add "
            "suites.NAME.prompts=FILE (one prompt a line, in the order of the images)"
        )
    share = images_per_prompt or max(len(paths) // len(items), 1)
    if len(paths) != share * len(items):
        raise CoverageError(
            f"{folder} has {len(paths)} images, but {len(items)} prompts with {share} images each "
            f"need {share * len(items)}{_gaps(paths, share * len(items))}"
        )
    repeated = [item for item in items for _ in range(share)]
    return [
        SampleFile(sample_id=path.name, path=path, **vars(item))
        for path, item in zip(paths, repeated, strict=True)
    ]


def _gaps(paths: Sequence[Path], count: int) -> str:
    """Which numbers are missing, where the names are numbers."""
    # Not isdigit, which is true of raised ones: int reads none of them.
    if not all(path.stem.isdecimal() for path in paths):
        return ""
    numbers = {int(path.stem) for path in paths}
    # Some tools count from 0, others from 1.
    first = min(*numbers, 1)
    absent = [str(n) for n in range(first, first + count) if n not in numbers]
    return f"; numbers missing: {_shown(absent)}" if absent else ""


def _shown(names: Sequence[str]) -> str:
    rest = len(names) - _NUM_SHOWN
    return (", ".join(names[:_NUM_SHOWN]) or "none") + (f" and {rest} more" if rest > 0 else "")
