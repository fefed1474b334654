"""The leaderboard's rows: what several exports share stands there once, with its family."""

import dataclasses
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


def test_judges_of_one_title_have_a_column_each(exports):
    def retitled(table):
        facts = {name: dataclasses.replace(one, title="Score") for name, one in table.facts.items()}
        return dataclasses.replace(table, facts=facts)

    [part, *_] = exports
    tables = tuple(retitled(table) for table in part.tables)
    text = leaderboard_html([dataclasses.replace(part, tables=tables)], "t").split("</table>")[0]
    # What decides first, under the title alone.
    heads = re.findall(r"<th[^>]*>(Score[^<]*)</th", text)
    assert heads == ["Score [95 %]", "Score (oracle_aesthetic) [95 %]"]
    shown = dict(zip(heads, ("aesthetic", "oracle_aesthetic"), strict=True))
    lines = [re.findall(r"<t[hd][^>]*>([^<]*)</t", line) for line in text.split("<tr>")[1:]]
    values = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}
    for row in part.tables[0].rows:
        for head, metric in shown.items():
            estimate = row.estimates[metric].interval.estimate
            assert values[part.tables[0].title(row.method)][head].startswith(f"{estimate:.3f} ")


def test_the_page_says_how_its_verdicts_came_about(exports):
    assert HOW_DECIDED in html.unescape(leaderboard_html(exports, "t"))
