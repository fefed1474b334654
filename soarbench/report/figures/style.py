"""How figures look: the style file, and a colour, dashes and a marker for each method."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl

from soarbench.config.stages import BASE
from soarbench.report.numbers.names import ordered_methods

STYLE_FILE = Path(__file__).with_name("soarbench.mplstyle")


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn; colour alone never tells two methods apart."""

    color: str
    dashes: str | tuple[float, tuple[float, ...]]
    marker: str
    hatch: str = ""

    @property
    def line(self) -> dict[str, Any]:
        """As matplotlib's arguments, without the marker."""
        return {"color": self.color, "linestyle": self.dashes}

    @property
    def hollow(self) -> dict[str, Any]:
        """The same with hollow markers, beside which a filled one stands out."""
        return {**self.line, "marker": self.marker, "markerfacecolor": "white"}


#: Okabe and Ito's colours, which colour-blind readers can tell apart; dark to light in grey.
METHOD_STYLES = {
    BASE: LineStyle("#000000", ":", "D", "xx"),
    "soar": LineStyle("#0072B2", "-", "o"),
    "flow_grpo": LineStyle("#009E73", "-.", "^", "..."),
    "sft": LineStyle("#E69F00", "--", "s", "///"),
}
_OTHER_STYLES = (
    LineStyle("#D55E00", (0, (5, 1, 1, 1, 1, 1)), "v", "\\\\\\"),
    LineStyle("#CC79A7", (0, (1, 1)), "P", "++"),
    LineStyle("#56B4E9", (0, (8, 3)), "X", "**"),
    LineStyle("#882255", (0, (5, 2)), "<", "---"),
    LineStyle("#7F7F7F", (0, (3, 1, 1, 1)), "h", "ooo"),
    LineStyle("#332288", (0, (2, 2)), ">", "|||"),
    LineStyle("#999933", (0, (6, 1, 2, 1)), "p", "OO"),
    LineStyle("#AA4499", (0, (1, 3)), "d", "xx.."),
)


@contextmanager
def style() -> Iterator[None]:
    """Apply the style file, over matplotlib's own defaults and not the user's settings."""
    with mpl.rc_context():
        # A user's matplotlibrc must not change a report.
        mpl.rcdefaults()
        mpl.rcParams.update(mpl.rc_params_from_file(STYLE_FILE, use_default_template=False))
        yield


def method_styles(methods: Collection[str]) -> dict[str, LineStyle]:
    """The style of each method, in the order of legends; unknown ones share out the rest."""
    ordered = ordered_methods(methods)
    others = [method for method in ordered if method not in METHOD_STYLES]
    spare = {name: _spare_style(i) for i, name in enumerate(others)}
    return {method: METHOD_STYLES.get(method) or spare[method] for method in ordered}


def _spare_style(number: int) -> LineStyle:
    """Of a method without a style of its own; 33 and more before two are alike."""
    if number < len(_OTHER_STYLES):
        return _OTHER_STYLES[number]
    looks = [*(look for name, look in METHOD_STYLES.items() if name != BASE), *_OTHER_STYLES]
    shift, place = divmod(number - len(_OTHER_STYLES), len(looks))
    # The colour of one and the rest of another: nobody can tell more colours apart than these.
    rest = looks[(place + 1 + shift) % len(looks)]
    return replace(rest, color=looks[place].color)
