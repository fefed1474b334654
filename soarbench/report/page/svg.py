"""SVG files as parts of a page: in its colours, and with ids of their own."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

#: What follows the page into its dark colours; most colours of methods can be seen on both.
_COLORS = {
    "#000000": "var(--ink)", "#ffffff": "var(--paper)", "#d8d8d8": "var(--line)",
    "#ededed": "var(--shade)", "#332288": "var(--indigo)", "#882255": "var(--wine)",
    "#595959": "var(--soft)",
}  # fmt: skip
_REFERENCE = re.compile(r"#([\w-]+)")
_FRACTION = re.compile(r"(\.\d\d)\d+")
#: Where a hundredth of a point is enough; scales of letters need more.
_LENGTHS = ("d", "x", "y")
_LINKS = ("href", "clip-path", "style")


def inline_svg(text: str, *, prefix: str, label: str) -> str:
    """An SVG file of ``save`` as an element of a page, ``prefix`` before its ids."""
    root = ET.fromstring(text)
    _drop(root, ("metadata", "style"))
    uses = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = _local(element.tag)
        values = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        # Nothing refers to the ids of groups, which every figure has again.
        if values.get("id") not in uses:
            values.pop("id", None)
        element.attrib.update({name: _value(name, text, prefix) for name, text in values.items()})
        element.tail = None
    # As wide as the page lets it be.
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _drop(root: ET.Element, names: tuple[str, ...]) -> None:
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in names]:
            parent.remove(child)


def _references(element: ET.Element) -> list[str]:
    values = (text for name, text in element.attrib.items() if _local(name) in _LINKS)
    return [name for text in values for name in _REFERENCE.findall(text)]


def _value(name: str, text: str, prefix: str) -> str:
    if name == "id":
        return prefix + text
    if name in ("href", "clip-path"):
        return _REFERENCE.sub(rf"#{prefix}\1", text)
    if name in _LENGTHS:
        return _FRACTION.sub(r"\1", " ".join(text.split()))
    if name == "style":
        for color, own in _COLORS.items():
            text = text.replace(color, own)
        return re.sub(r"url\(#([\w-]+)\)", rf"url(#{prefix}\1)", text)
    return text
