"""Images of any model, matched with the prompts of a suite; nothing is decoded here.

Three forms are read: GenEval's official folders, one JSON Lines file, and a plain folder whose
images, in the order of the numbers in their names, follow the lines of a prompts file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.geneval.prompts import official_metadata
from evaluators.images import SUFFIXES
from evaluators.samples import CoverageError, SampleFile, check_counts
from soarbench.common.errors import ConfigError, UserError
from soarbench.common.strict import did_you_mean
from soarbench.evaluation.suites import PromptItem, load_suite

_NUM_SHOWN = 5


@dataclass(frozen=True)
class ImageSuite:
    """What images are scored for.

    Attributes:
        judges: Names of the judges.
        images_per_prompt: As published; None: as many as the first prompt has.
        prompts: The suite's own prompts; None where the user brings them.
    """

    judges: tuple[str, ...]
    images_per_prompt: int | None = None
    prompts: Callable[[], Sequence[PromptItem]] | None = None


def _official_geneval() -> list[PromptItem]:
    return [_item(index, entry) for index, entry in enumerate(official_metadata())]


def _item(index: int, entry: Mapping[str, object]) -> PromptItem:
    return PromptItem(f"{index:05d}", str(entry["prompt"]), entry)


def _lab(name: str) -> Callable[[], Sequence[PromptItem]]:
    return lambda: load_suite(name).items


SUITES: Mapping[str, ImageSuite] = {
    "geneval": ImageSuite(("geneval",), 4, _official_geneval),
    "ocr": ImageSuite(("ocr",)),
    "drawbench": ImageSuite(("clipscore", "aesthetic", "pickscore", "hpsv21", "imagereward")),
    "lab_geneval": ImageSuite(("lab_geneval",), None, _lab("lab_geneval")),
    "lab_ocr": ImageSuite(("ocr",), None, _lab("lab_ocr")),
    "lab_drawbench": ImageSuite(
        ("lab_clipscore", "lab_aesthetic", "oracle_aesthetic"), None, _lab("lab_drawbench")
    ),
}


def suite_named(name: str) -> ImageSuite:
    """A suite.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SUITES:
        raise ConfigError(f"suite={name!r} does not exist: {did_you_mean(name, SUITES)}")
    return SUITES[name]


def read_prompts(path: Path) -> list[PromptItem]:
    """Prompts of a file: JSON Lines with ``prompt``, or plain text, one a line.

    Equal lines are one prompt, so that a file which repeats each prompt names several images of it.

    Raises:
        UserError: The file is missing, empty or malformed.
    """
    if not path.is_file():
        raise UserError(f"prompts={path}: no such file")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"prompts={path} is not UTF-8 text ({error})") from error
    if not lines:
        raise UserError(f"prompts={path} is empty")
    numbers: dict[str, int] = {}
    items = []
    for position, line in enumerate(lines, start=1):
        entry = _entry(line, f"{path} line {position}") if path.suffix == ".jsonl" else None
        text = line.strip() if entry is None else str(entry["prompt"])
        index = numbers.setdefault(text, len(numbers))
        items.append(PromptItem(f"{index:05d}", text, entry or {"prompt": text}))
    return items


def _entry(line: str | bytes, where: str) -> dict[str, object]:
    """A line's object, whose prompt is a text."""
    entry = _object(line, where)
    if not isinstance(entry.get("prompt"), str) or not entry["prompt"]:
        raise UserError(f"{where}: prompt is {entry.get('prompt')!r}; it must be the prompt's text")
    return entry


def _object(line: str | bytes, where: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object: {entry!r}")
    return entry


def prompts_digest(files: Iterable[SampleFile]) -> str:
    """The sha256 of the prompts and demands, whatever their images."""
    rows = {(file.prompt_id, file.prompt, _demands(file.metadata)) for file in files}
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def _demands(metadata: Mapping[str, object]) -> str:
    return json.dumps([metadata.get(key) for key in ("tag", "include", "exclude")])


def find_images(
    images: Path, items: Sequence[PromptItem] | None, images_per_prompt: int | None
) -> list[SampleFile]:
    """List the images to be scored, each with its prompt, and make sure that none is missing.

    Args:
        images: A folder, or a ``.jsonl`` file.
        items: The prompts that must be covered; None takes what the images come with.
        images_per_prompt: Wanted of each; None: as many as the first prompt has.

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
    elif any(path.is_dir() and path.name.isdigit() for path in images.iterdir()):
        files = _official(images)
    else:
        return _plain(images, items, images_per_prompt)
    return _covered(files, items, images_per_prompt)


def _official(root: Path) -> list[SampleFile]:
    files: list[SampleFile] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name.isdigit()):
        source = folder / "metadata.jsonl"
        if not source.is_file():
            raise UserError(f"no {source}: it must hold the prompt of {folder}")
        lines = [line for line in source.read_bytes().splitlines() if line.strip()]
        if len(lines) != 1:
            raise UserError(f"{source} has {len(lines)} entries; it must hold exactly one")
        entry = _entry(lines[0], str(source))
        found = _image_paths(folder / "samples")
        if not found:
            raise CoverageError(f"{folder / 'samples'} has no image of {entry['prompt']!r}")
        files += [_file(f"{folder.name}/{path.stem}", path, entry) for path in found]
    return files


def _image_paths(folder: Path) -> list[Path]:
    """Images directly in a folder, by the numbers in their names."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, str]]:
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
        name, entry = _image_and_entry(_object(line, where), where)
        if not (source.parent / name).is_file():
            raise UserError(f"{where}: image {name!r} is no file beside {source.name}")
        files.append(_file(name, source.parent / name, entry))
    counts = Counter(file.sample_id for file in files)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
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
    return name, _entry(json.dumps({**beside, **nested}), where)


def _covered(
    files: list[SampleFile], items: Sequence[PromptItem] | None, images_per_prompt: int | None
) -> list[SampleFile]:
    """Give every file its prompt's id; refuse missing and surplus prompts and images."""
    if items is None:
        texts = dict.fromkeys(file.prompt for file in files)
        items = [PromptItem(f"{i:05d}", text) for i, text in enumerate(texts)]
    ids = {item.prompt: item.prompt_id for item in items}
    there = {file.prompt for file in files}
    missing = [text for text in ids if text not in there]
    extra = sorted(there - ids.keys())
    if missing or extra:
        raise CoverageError(
            f"not the {len(ids)} prompts of the suite: {len(missing)} missing ({_shown(missing)}), "
            f"{len(extra)} too many ({_shown(extra)}); add them, or say coverage=found"
        )
    wanted = {item.prompt: _demands(item.metadata) for item in items if "tag" in item.metadata}
    for file in files:
        if file.prompt in wanted and _demands(file.metadata) != wanted[file.prompt]:
            raise CoverageError(
                f"{file.sample_id}: the metadata of {file.prompt!r} is not the suite's; "
                "correct it, or say coverage=found"
            )
    named = [dataclasses.replace(file, prompt_id=ids[file.prompt]) for file in files]
    check_counts(named, list(ids.values()), images_per_prompt=images_per_prompt)
    return named


def _plain(
    folder: Path, items: Sequence[PromptItem] | None, images_per_prompt: int | None
) -> list[SampleFile]:
    paths = _image_paths(folder)
    if not paths:
        raise UserError(
            f"no images to score in {folder}: expected 00000/samples/0000.png (GenEval's layout) "
            "or images beside each other"
        )
    if items is None:
        raise UserError(
            f"images={folder} has {len(paths)} images without prompts; add suites.NAME.prompts=FILE "
            "(one prompt a line, in the order of the images)"
        )
    share = images_per_prompt or max(len(paths) // len(items), 1)
    if len(paths) != share * len(items):
        raise CoverageError(
            f"{folder} has {len(paths)} images, but {len(items)} prompts with {share} images each "
            f"need {share * len(items)}{_gaps(paths, share * len(items))}"
        )
    return [
        SampleFile(
            sample_id=path.name,
            prompt_id=items[i // share].prompt_id,
            prompt=items[i // share].prompt,
            path=path,
            metadata=items[i // share].metadata,
        )
        for i, path in enumerate(paths)
    ]


def _gaps(paths: Sequence[Path], wanted: int) -> str:
    """Which numbers are missing, where the names are numbers."""
    if not all(path.stem.isdigit() for path in paths):
        return ""
    numbers = {int(path.stem) for path in paths}
    first = min(*numbers, 1)
    absent = [str(n) for n in range(first, first + wanted) if n not in numbers]
    return f"; numbers missing: {_shown(absent)}" if absent else ""


def _shown(names: Sequence[str]) -> str:
    rest = len(names) - _NUM_SHOWN
    return (", ".join(names[:_NUM_SHOWN]) or "none") + (f" and {rest} more" if rest > 0 else "")
