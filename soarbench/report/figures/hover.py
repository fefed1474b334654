"""Values of points in SVG files, which a browser shows under the pointer."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

from matplotlib.artist import Artist

#: Begins the id of an artist's group; the labels of its marks follow as quoted JSON.
_PREFIX = "hover:"
_GROUP = re.compile(rf'<g id="{_PREFIX}([^"]*)">(.*?)</g>', re.DOTALL)
_USES, _PATHS = re.compile(r"(<use [^>]*)/>"), re.compile(r"(<path [^>]*)/>")


def hover(artist: Artist, labels: Sequence[str]) -> None:
    """Give every mark of an artist, a line's markers or a bar, the label that SVG files show."""
    artist.set_gid(_PREFIX + quote(json.dumps(list(labels))))


def with_titles(svg: str) -> str:
    """An SVG file's text, in which the labels of ``hover`` are titles of their marks."""
    return _GROUP.sub(lambda group: _titled(group[1], group[2]), svg)


def _titled(labels: str, content: str) -> str:
    titles = json.loads(unquote(labels))
    marks = _USES if _USES.search(content) else _PATHS
    # Marks beyond the frame are not written; those that are would get each other's labels.
    if len(marks.findall(content)) != len(titles):
        return f"<g>{content}</g>"
    numbers = itertools.count()
    titled = marks.sub(lambda mark: _with_title(mark[1], titles[next(numbers)]), content)
    return f'<g class="hover">{titled}</g>'


def _with_title(mark: str, title: str) -> str:
    name = mark[1:].partition(" ")[0]
    return f"{mark}><title>{html.escape(title)}</title></{name}>"


def value_text(value: float, low: float, high: float, decimals: int, sign: str = "") -> str:
    """A value with its interval."""
    texts = [f"{number:{sign}.{decimals}f}" for number in (value, low, high)]
    return "{} [{}, {}]".format(*texts)
