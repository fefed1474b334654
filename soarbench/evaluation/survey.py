"""A look at the headers of images before any is judged: what is damaged, and what is converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluators.images import DECODER_ERRORS, ImageError, load_image
from evaluators.samples import SampleFile

#: Pixels along the shorter side; less shows nothing and is a placeholder.
MIN_SIDE = 8
_PNG_END = b"IEND\xaeB`\x82"
# EXIF's tag, and those of its values that turn an image.
_ORIENTATION, _TURNED = 0x0112, range(2, 9)


@dataclass(frozen=True)
class Survey:
    """What headers say.

    Attributes:
        largest: Pixels of the largest image.
        converted: Images by the reason for which they are not judged as they lie on disk.
    """

    largest: int
    converted: Counter[str]

    def note(self) -> str:
        """One line about what is converted; empty where nothing is."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.converted.items()))
        return f"converted to upright 8-bit RGB: {kinds}" if kinds else ""


def survey(files: Sequence[SampleFile]) -> Survey:
    """Look at every image, so that most bad files show at once.

    ``ImageError`` where one is no image, is cut short, or is too small to show anything.
    """
    largest, converted = 0, Counter[str]()
    for file in files:
        pixels, kinds = _look(file.path)
        largest = max(largest, pixels)
        converted.update(kinds)
    return Survey(largest, converted)


def _look(path: Path) -> tuple[int, list[str]]:
    """Pixels, and why the image is converted."""
    try:
        with Image.open(path) as image:
            width, height, is_png = image.width, image.height, image.format == "PNG"
            kinds = _conversions(image)
    except (OSError, *DECODER_ERRORS):
        # Says in words of ours what is wrong with the file.
        load_image(path)
        raise
    # Headers of a PNG that was cut short are fine, so its end is looked at, too.
    if is_png and not _ends_well(path):
        load_image(path)
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"image {path} is {width} x {height} pixels; less than {MIN_SIDE} along a side shows "
            "nothing: replace it"
        )
    return width * height, kinds


def _conversions(image: Image.Image) -> list[str]:
    kinds = []
    if image.has_transparency_data:
        kinds.append("with transparency, put on white")
    elif image.mode.startswith("I"):
        kinds.append("of 16 bits")
    elif image.mode != "RGB":
        kinds.append({"P": "with a palette", "L": "grey"}.get(image.mode, image.mode))
    if image.getexif().get(_ORIENTATION) in _TURNED:
        kinds.append("turned by EXIF")
    return kinds


def _ends_well(path: Path) -> bool:
    with path.open("rb") as stream:
        # Bytes after the mark do no harm, so it need not be the last.
        stream.seek(-min(path.stat().st_size, 64), 2)
        return _PNG_END in stream.read()
