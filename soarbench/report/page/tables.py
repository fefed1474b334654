"""Tables of the page: the texts of a frame, what each is sorted by, and marks of verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from soarbench.report.numbers.tables import TaskTable
from soarbench.report.text.frames import NOTHING, cost_texts, score_texts
from soarbench.stats import Verdict

#: Class of a verdict's colour and sign.
MARKS = {
    **{str(one): "better" if one.direction > 0 else "worse" for one in Verdict if one.is_decided},
    str(Verdict.NOT_DISTINGUISHABLE): "open",
}


@dataclass(frozen=True)
class DataCell:
    """One cell: its text, the number that it is sorted by, and the mark of a verdict."""

    text: str
    sort: float | None = None
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class DataTable:
    """A table of the page; all but the first ``texts`` columns and verdicts are numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[DataCell, ...], ...]
    texts: int


def data_table(caption: str, frame: pd.DataFrame, *, texts: int) -> DataTable:
    """A table of texts, whose first ``texts`` columns are no numbers, nor is a ``Verdict``."""
    heads = tuple(str(head) for head in frame)
    rows = tuple(
        tuple(
            DataCell(
                text or NOTHING,
                # Sorted by what is shown: 9,600 before 19,200, and 6.85 [...] by its value.
                _leading(text) if index >= texts else None,
                MARKS.get(text, "") if heads[index] == "Verdict" else "",
            )
            for index, text in enumerate(row)
        )
        for row in frame.to_numpy().tolist()
    )
    return DataTable(caption=caption, heads=heads, rows=rows, texts=texts)


def _leading(text: str) -> float | None:
    """The number that a text such as ``6.85 [6.74, 6.96]`` begins with."""
    try:
        return float(text.partition(" ")[0].replace(",", ""))
    except ValueError:
        return None


def methods_table(table: TaskTable, caption: str) -> DataTable:
    """Methods as rows: the deciding metric with its difference and verdict, then the costs."""
    texts, costs = score_texts(table), cost_texts(table)
    title = table.facts[table.final_metric].title if table.final_metric else ""
    scores = _headed(table, texts[texts["metric"] == table.final_metric], f"{title} [95 %]")
    # The verdict beside the method: further right it leaves a narrow screen.
    versus = f"vs {table.title(table.baseline)} [95 %]"
    scores = scores[["Verdict", versus, f"{title} [95 %]"]].reset_index(drop=True)
    frame = pd.concat([costs[["Method"]], scores, costs.drop(columns="Method")], axis=1)
    # Where no cell that trained is finished, nothing says what decides.
    return data_table(caption, frame.fillna(NOTHING), texts=1)


def others_table(table: TaskTable, caption: str) -> DataTable | None:
    """A row a metric and method, for the metrics that do not decide; None without any."""
    texts = score_texts(table)
    frame = _headed(table, texts[texts["metric"] != table.final_metric], "Value [95 %]")
    return None if frame.empty else data_table(caption, frame, texts=2)


def _headed(table: TaskTable, scores: pd.DataFrame, value: str) -> pd.DataFrame:
    """The columns of ``score_texts`` that people read, under heads for them."""
    versus = f"vs {table.title(table.baseline)} [95 %]"
    heads = {
        "name": "Method", "title": "Metric", "value": value, "difference": versus,
        "verdict": "Verdict",
    }  # fmt: skip
    return scores[list(heads)].rename(columns=heads)
