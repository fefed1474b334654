"""The leaderboard's rows: what several exports share stands there once, with its family."""

import html
import re

import pytest

from soarbench.report.leaderboard import Entry, leaderboard_html
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.tables import HOW_DECIDED, build_tables
from tests.report.folders import read_cells, reward_specific, write_grid


def entry(folder, name, seeds, methods):
    cells = [one for one in reward_specific(seeds) if one.method in (BASE, *methods)]
    read, holes = read_cells(write_grid(folder / name, cells))
    panels, more = build_panels(read)
    tables = build_tables(read, panels, [*holes, *more], baseline=BASE)
    return Entry(name=name, cells=tuple(read), tables=tuple(tables))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return [
        entry(folder, "part", (0, 1), ("soar",)),
        entry(folder, "whole", (0, 1, 2), ("soar", "sft")),
        entry(folder, "other", (1, 3), ("soar", "sft", "flow_grpo")),
    ]


def rows(found):
    """Of the first task: method, export, seeds and comparisons."""
    text = leaderboard_html(found, "t").split("</table>")[0]
    lines = [re.findall(r"<t[hd][^>]*>([^<]*)</t", line) for line in text.split("<tr>")[1:]]
    heads = lines.pop(0)
    places = [heads.index(head) for head in ("Method", "Published as", "Seeds", "Comparisons")]
    return sorted(tuple(line[place] for place in places) for line in lines)


def test_a_row_whose_seeds_are_among_those_of_another_is_left_out(exports):
    part, whole, other = exports
    expected = [("Base", "part", "-", "-"), ("SFT", "whole", "3", "2"), ("SOAR", "whole", "3", "2")]
    assert rows([part, whole]) == expected
    assert [one[2:] for one in rows([whole, part])] == [one[2:] for one in expected]
    # Seeds that only it has make it another result.
    assert ("SOAR", "other", "2", "3") in rows([part, whole, other])


def test_the_page_says_how_its_verdicts_came_about(exports):
    assert HOW_DECIDED in html.unescape(leaderboard_html(exports, "t"))
