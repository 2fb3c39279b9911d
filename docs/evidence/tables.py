"""The tables of the pages beside this file, from the files in ``data/``.

``python docs/evidence/tables.py`` writes a table after each line of the form ``<!-- kind sweep: names -->``,
in place of the one that is there. The kinds:

* ``arms``: a row per arm from ``<sweep>-arms.csv``, every column,
* ``kept``: a row per arm from ``<sweep>-kept.csv``; the names are columns,
* ``collapse``: a row per measurement from ``collapse.csv``; the names are measurements, by default all,
* ``data-alone``: a row per measurement and arm from ``data-alone.csv``; the names are arms.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from arms import NAMES, TITLES, read
from collapse import KINDS as CORRELATIONS
from data_alone import KINDS as FACTORS

from pliant.runs.report.statistics import Interval

HERE = Path(__file__).parent
PLACE = re.compile(r"<!-- (arms|kept|collapse|data-alone) ([a-z-]+)(?:: (.+?))? -->\n\n(?:(?:\|.*\n)+\n)?")

Row = Mapping[str, str]


def rows(name: str) -> list[dict[str, str]]:
    """Of a file in ``data/``."""
    return read(HERE / "data" / f"{name}.csv")


def cell(row: Row, column: str) -> str:
    """A number with its interval; empty if there is none."""
    ends = [row.get(f"{column}{end}") for end in ("", "_low", "_high")]
    return str(Interval(*map(float, ends))) if all(ends) else ""


def label(part: str, measurement: str, alone: bool) -> str:
    """What was measured, and of which network if there are several."""
    name = NAMES[measurement]
    return name if alone else f"{part}: {name}"


def arms(sweep: str, _: Sequence[str]) -> tuple[list[str], Iterable[list[str]]]:
    """Header and rows."""
    body = (
        [f"`{row['arm']}`", *(cell(row, column) for column in TITLES), row["seeds"]]
        for row in rows(f"{sweep}-arms")
    )
    return ["arm", *TITLES.values(), "seeds"], body


def kept(sweep: str, columns: Sequence[str]) -> tuple[list[str], Iterable[list[str]]]:
    """Header and rows, in the order of the arms."""
    found = {row["arm"]: row for row in rows(f"{sweep}-kept")}
    order = [row["arm"] for row in rows(f"{sweep}-arms")]
    split = [column.partition("_")[::2] for column in columns]
    alone = len({part for part, _ in split}) == 1
    header = ["arm", *(label(*one, alone) for one in split)]
    return header, ([f"`{arm}`", *(cell(found[arm], column) for column in columns)] for arm in order)


def collapse(sweep: str, chosen: Sequence[str]) -> tuple[list[str], Iterable[list[str]]]:
    """Header and rows, the strongest correlation first."""
    found = [
        row for row in rows("collapse") if row["sweep"] == sweep and row["measurement"] in (chosen or NAMES)
    ]
    alone = len({row["part"] for row in found}) == 1
    body = (
        [label(row["part"], row["measurement"], alone), *(cell(row, kind) for kind in CORRELATIONS)]
        for row in found
    )
    return [f"before the first update, `{sweep}`", *(name for name, *_ in CORRELATIONS.values())], body


def data_alone(sweep: str, chosen: Sequence[str]) -> tuple[list[str], Iterable[list[str]]]:
    """Header and rows, the arms of a measurement together."""
    found = [row for row in rows("data-alone") if row["sweep"] == sweep and row["arm"] in chosen]
    alone = len({row["part"] for row in found}) == 1
    places = list(dict.fromkeys((row["part"], row["measurement"]) for row in found))
    found.sort(key=lambda row: places.index((row["part"], row["measurement"])))
    body = (
        [
            label(row["part"], row["measurement"], alone),
            f"`{row['arm']}`",
            *(cell(row, kind) for kind in FACTORS),
        ]
        for row in found
    )
    return ["", "arm", *(name for name, *_ in FACTORS.values())], body


MAKERS = {"arms": arms, "kept": kept, "collapse": collapse, "data-alone": data_alone}


def filled(page: str) -> str:
    """The page with its tables as the files have them."""

    def table(place: re.Match[str]) -> str:
        kind, sweep, names = place.groups()
        header, body = MAKERS[kind](sweep, names.split(", ") if names else ())
        lines = [header, ["---"] * len(header), *body]
        marker = place[0].partition("\n")[0]
        return f"{marker}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"

    return PLACE.sub(table, page)


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.md")):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
