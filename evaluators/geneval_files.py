"""Reading images to be judged by GenEval: the official folders, or one JSON Lines file.

Readers check everything but the pixels at once, so that a wrong folder is refused before a model is
loaded; images are decoded later, a few ahead of the detector.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluators.base import Sample
from evaluators.geneval_metadata import MetadataError, check_vocabulary, parse_request
from evaluators.geneval_prompts import CLASS_NAMES, COLORS
from evaluators.images import SUFFIXES, ImageError, load_image, load_images

_NUM_SHOWN = 5


class CoverageError(ValueError):
    """Images and prompts do not match; the message lists what is missing or too many."""


@dataclass(frozen=True, kw_only=True)
class SampleFile:
    """A sample whose image is still on disk.

    Attributes:
        sample_id: Unique, e.g. ``"00012/0003"``.
        prompt_id: Images of the same prompt share it.
        prompt: What was asked for.
        path: The image.
        metadata: GenEval's metadata.
    """

    sample_id: str
    prompt_id: str
    prompt: str
    path: Path
    metadata: Mapping[str, object]

    def load(self) -> Sample:
        """Decode the image.

        Raises:
            ImageError: It cannot be used.
        """
        return self.with_image(load_image(self.path))

    def with_image(self, image: Image.Image) -> Sample:
        """The sample with its decoded image."""
        return Sample(
            sample_id=self.sample_id,
            prompt_id=self.prompt_id,
            prompt=self.prompt,
            image=image,
            metadata=self.metadata,
        )


def iter_samples(
    files: Sequence[SampleFile], *, workers: int = 2, ahead: int = 16
) -> Iterator[Sample]:
    """Decode samples in order, at most ``ahead`` images before they are asked for.

    Raises:
        ImageError: At the first image that cannot be used.
    """
    images = load_images((file.path for file in files), workers=workers, ahead=ahead)
    for file, image in zip(files, images, strict=True):
        yield file.with_image(image)


def read_folder(
    folder: str | Path,
    *,
    images_per_prompt: int | None = None,
    class_names: Sequence[str] = CLASS_NAMES,
    color_names: Sequence[str] = COLORS,
) -> list[SampleFile]:
    """List the official layout: ``00000/metadata.jsonl`` beside ``00000/samples/0000.png``.

    Args:
        folder: Holds one numbered folder a prompt; others are ignored.
        images_per_prompt: Images that each prompt must have; None: as many as the first one has.
        class_names: Classes that the metadata may name.
        color_names: Colours that the metadata may name.

    Returns:
        One entry an image, by prompt and number.

    Raises:
        ImageError: The folder has no prompts or no images.
        MetadataError: A ``metadata.jsonl`` is missing, malformed or names something unknown.
        CoverageError: The prompts have different numbers of images.
    """
    root = Path(folder)
    prompts = sorted(path for path in root.glob("*/") if path.name.isdigit())
    if not prompts:
        raise ImageError(
            f"no images to score in {root}: expected folders 00000/, 00001/, ... with "
            "metadata.jsonl and samples/0000.png"
        )
    files: list[SampleFile] = []
    for prompt_dir in prompts:
        source = prompt_dir / "metadata.jsonl"
        metadata = _read_single_entry(source)
        _check(metadata, str(source), class_names, color_names)
        files += _prompt_files(prompt_dir, metadata)
    if not files:
        raise ImageError(f"no images to score in {root}: every samples/ folder is empty")
    check_counts(files, [path.name for path in prompts], images_per_prompt=images_per_prompt)
    return files


def _prompt_files(prompt_dir: Path, metadata: Mapping[str, object]) -> list[SampleFile]:
    images = [
        path
        for path in sorted((prompt_dir / "samples").glob("*"))
        if path.suffix.lower() in SUFFIXES and path.stem.isdigit()
    ]
    return [
        SampleFile(
            sample_id=f"{prompt_dir.name}/{path.stem}",
            prompt_id=prompt_dir.name,
            prompt=str(metadata["prompt"]),
            path=path,
            metadata=metadata,
        )
        for path in images
    ]


def _read_single_entry(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise MetadataError(f"no metadata file {path}; it must hold the prompt's GenEval entry")
    entries = [entry for _, entry in _json_lines(path)]
    if len(entries) != 1:
        raise MetadataError(f"{path} has {len(entries)} entries; it must hold exactly one")
    return entries[0]


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Where each entry stands ("FILE line N") and what it says."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise MetadataError(f"{where} is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise MetadataError(f"{where} is not a JSON object: {line[:60]!r}")
        yield where, entry


def _check(
    metadata: Mapping[str, object],
    where: str,
    class_names: Sequence[str],
    color_names: Sequence[str],
) -> None:
    prompt = metadata.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise MetadataError(f"{where}: prompt is {prompt!r}; it must be the prompt's text")
    try:
        check_vocabulary(parse_request(metadata), class_names, color_names)
    except MetadataError as error:
        raise MetadataError(f"{where}: {error}") from error


def read_jsonl(
    path: str | Path,
    *,
    images_per_prompt: int | None = None,
    class_names: Sequence[str] = CLASS_NAMES,
    color_names: Sequence[str] = COLORS,
) -> list[SampleFile]:
    """List a JSON Lines file of ``image``, ``prompt`` and GenEval's metadata.

    A line has the metadata under ``metadata`` or beside ``image``, e.g. ``{"image": "a.png",
    "prompt": "a photo of a dog", "tag": "single_object", "include": [...]}``. Lines of equal prompt
    and demands are images of one prompt.

    Args:
        path: The file; image paths in it are relative to its folder.
        images_per_prompt: Images that each prompt must have; None: as many as the first one has.
        class_names: Classes that the metadata may name.
        color_names: Colours that the metadata may name.

    Returns:
        One entry a line, in order.

    Raises:
        ImageError: The file lists no images, or one that does not exist.
        MetadataError: A line is malformed or names something unknown.
        CoverageError: An image is listed twice, or the prompts have different numbers of images.
    """
    source = Path(path)
    if not source.is_file():
        raise ImageError(
            f"no such file {source}; give a folder in GenEval's layout or a .jsonl file"
        )
    files: list[SampleFile] = []
    prompt_ids: dict[str, str] = {}
    for where, entry in _json_lines(source):
        image, metadata = _split_entry(entry, where)
        _check(metadata, where, class_names, color_names)
        if not (source.parent / image).is_file():
            raise ImageError(f"{where}: no image file {source.parent / image}")
        key = json.dumps(metadata, sort_keys=True)
        prompt_id = prompt_ids.setdefault(key, f"{len(prompt_ids):05d}")
        files.append(
            SampleFile(
                sample_id=image,
                prompt_id=prompt_id,
                prompt=str(metadata["prompt"]),
                path=source.parent / image,
                metadata=metadata,
            )
        )
    if not files:
        raise ImageError(f"no images to score in {source}: it has no lines")
    twice = [name for name, count in Counter(file.sample_id for file in files).items() if count > 1]
    if twice:
        raise CoverageError(f"{source} lists images more than once: {_shown(twice)}")
    check_counts(files, list(prompt_ids.values()), images_per_prompt=images_per_prompt)
    return files


def _split_entry(entry: Mapping[str, object], where: str) -> tuple[str, dict[str, object]]:
    """The image's name and GenEval's metadata, prompt included."""
    image = entry.get("image")
    if not isinstance(image, str) or not image:
        raise MetadataError(f"{where}: image is {image!r}; it must be the path of an image")
    rest = {key: value for key, value in entry.items() if key not in ("image", "metadata")}
    nested = entry.get("metadata", {})
    if not isinstance(nested, Mapping):
        raise MetadataError(f"{where}: metadata is {nested!r}; it must be a JSON object")
    for key in rest.keys() & nested.keys():
        if rest[key] != nested[key]:
            raise MetadataError(
                f"{where}: {key} is {rest[key]!r}, but {nested[key]!r} in its metadata; make them "
                "equal or remove one"
            )
    return image, {**rest, **nested}


def check_counts(
    files: Sequence[SampleFile], prompt_ids: Sequence[str], *, images_per_prompt: int | None = None
) -> None:
    """Make sure that every prompt has the same number of images.

    Args:
        files: What there is.
        prompt_ids: Every prompt that must be covered.
        images_per_prompt: The number wanted; None: as many as the first prompt has.

    Raises:
        CoverageError: Lists the prompts that have more or fewer.
    """
    counts = Counter(file.prompt_id for file in files)
    wanted = counts[prompt_ids[0]] if images_per_prompt is None else images_per_prompt
    wrong = [f"{name} has {counts[name]}" for name in prompt_ids if counts[name] != wanted]
    if wrong:
        raise CoverageError(
            f"{len(wrong)} of {len(prompt_ids)} prompts do not have {wanted} images: "
            f"{_shown(wrong)}"
        )


def check_prompts(files: Sequence[SampleFile], expected: Sequence[Mapping[str, object]]) -> None:
    """Make sure that exactly the expected prompts are there, e.g. the official 553.

    Raises:
        CoverageError: Lists the prompts that are missing or too many.
    """
    found = {_demand(file.metadata): file.prompt for file in files}
    wanted = {_demand(entry): str(entry["prompt"]) for entry in expected}
    missing = [prompt for demand, prompt in wanted.items() if demand not in found]
    extra = [prompt for demand, prompt in found.items() if demand not in wanted]
    if missing or extra:
        raise CoverageError(
            f"not the {len(wanted)} expected prompts: {len(missing)} missing ({_shown(missing)}), "
            f"{len(extra)} too many ({_shown(extra)})"
        )


def _demand(metadata: Mapping[str, object]) -> tuple[str, object]:
    return str(metadata["prompt"]), parse_request(metadata)


def _shown(names: Sequence[str]) -> str:
    rest = len(names) - _NUM_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return (", ".join(names[:_NUM_SHOWN]) or "none") + more
