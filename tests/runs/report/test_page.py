"""The report's page: one file, well formed, whose pictures and tables are what the files hold."""

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from pliant.runs.errors import RunFolderError
from pliant.runs.folder import RunFolder
from pliant.runs.report import over_switches, spectra
from pliant.runs.report.comparison import Comparison, gather
from pliant.runs.report.page import first_free, render, write_report

TASKS = 3  # of every run in `results`
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'
MakeRun = Callable[..., RunFolder]
Parse = Callable[[str], Any]


def csv_of(parsed: Any, name: str) -> list[dict[str, str]]:
    """The rows behind the download link of a picture."""
    (link,) = [a["href"] for tag, a in parsed.elements if tag == "a" and a.get("download") == f"{name}.csv"]
    assert link is not None
    return list(csv.DictReader(io.StringIO(unquote(link.split(",", 1)[1]))))


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: Path, parsed: Any) -> None:
    for _, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    text = page.read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # names of XML, not places


def test_ids_are_unique_and_every_reference_has_its_target(page: Path, parsed: Any) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in parsed.elements if (a.get("href") or "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page.read_text(encoding="utf-8")))
    wanted |= {a["for"] for tag, a in parsed.elements if "for" in a}
    assert wanted <= set(ids)


def test_every_picture_is_svg_with_a_name_and_can_be_saved(page: Path, parsed: Any) -> None:
    pictures = re.findall(r"<svg role=.*?</svg>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(pictures) >= 15
    for picture in pictures:
        root = ElementTree.fromstring(picture)  # well-formed as XML, too
        assert root.get("aria-label")
        assert root.get("data-size")
    links = [a for tag, a in parsed.elements if tag == "a" and "download" in a]
    for kind in ("svg", "pdf", "csv"):
        assert len([a for a in links if a["download"].endswith(kind)]) == len(pictures)
    for link in links:
        if link["download"].endswith("pdf"):
            file = base64.b64decode(link["href"].split(",")[1])
            assert file.startswith(b"%PDF")
            changes = link["download"].startswith(("spectrum-", "epsilon-rank-"))
            assert file.count(b"/Type /Page ") == (TASKS if changes else 1)


def test_the_curve_behind_the_picture_is_that_of_the_episodes(parsed: Any, results: Path) -> None:
    rows = [
        row for row in csv_of(parsed, "return") if (row["arm"], row["seed"], row["task"]) == ("bp", "2", "1")
    ]
    run = next(path for path in results.iterdir() if path.name.startswith("toy-bp-s2"))
    with (run / "episodes.csv").open() as file:
        episodes = [
            (int(e["env_steps"]), float(e["return"])) for e in csv.DictReader(file) if e["task"] == "1"
        ]
    assert len(rows) == 20
    for row in rows:
        end = int(row["env_steps"])
        mean = np.mean([value for step, value in episodes if end - 50 < step <= end])
        assert float(row["return"]) == pytest.approx(mean)


def test_the_evaluation_table_and_its_csv_are_the_files_means(page: Path, parsed: Any, results: Path) -> None:
    expected: dict[tuple[int, int], list[float]] = {}
    for run in results.glob("toy-er-*"):
        with (run / "evaluation.csv").open() as file:
            for row in csv.DictReader(file):
                expected.setdefault((int(row["after_task"]), int(row["on_task"])), []).append(
                    float(row["return"])
                )
    rows = csv_of(parsed, "evaluation-er")
    assert len(rows) == (TASKS + 1) * TASKS
    for row in rows:
        mean = np.mean(expected[int(row["after_task"]), int(row["on_task"])])
        assert float(row["return"]) == pytest.approx(mean)
    text = page.read_text(encoding="utf-8")
    table = re.search(r'data-picture="evaluation-er">(.*?)</table>', text, flags=re.DOTALL)
    assert table is not None
    cells = [float(cell) for cell in re.findall(r"<td>([\d.]+)</td>", table[1])]
    assert cells == pytest.approx([float(row["return"]) for row in rows], rel=0.005)


def test_spectra_have_a_frame_for_every_switch_and_only_the_last_is_seen(parsed: Any) -> None:
    frames = [a for tag, a in parsed.elements if tag == "g" and "data-switch" in a]
    assert {a["data-switch"] for a in frames} == {"0", "1", "2"}
    for frame in frames:
        assert (frame.get("style") == "display:none") == (frame["data-switch"] != "2")
    (slider,) = [a for tag, a in parsed.elements if tag == "input"]
    assert slider["value"] == slider["max"] == "2"
    rows = csv_of(parsed, "epsilon-rank-actor")
    beyond = {
        float(r["epsilon"]): float(r["share_beyond"]) for r in rows if (r["task"], r["arm"]) == ("0", "bp")
    }
    assert {r["seeds"] for r in rows} == {"3"}
    assert all(float(r["lowest"]) <= float(r["share_beyond"]) <= float(r["highest"]) for r in rows)
    # Twelve eigenvalues of which eleven are above 0.05 (the smallest are -0.02 and 0.073).
    near = min(beyond, key=lambda epsilon: abs(epsilon - 0.04))
    assert beyond[near] == pytest.approx(11 / 12, abs=1 / 12)


def test_a_replay_in_the_run_folder_is_embedded(parsed: Any) -> None:
    (film,) = [a for tag, a in parsed.elements if tag == "img"]
    assert film["src"].startswith("data:image/gif;base64,")


def test_the_same_runs_make_the_same_page_but_for_its_date(results: Path) -> None:
    pages = [render(*gather([min(results.iterdir())])) for _ in range(2)]
    pages = [re.sub(r"made \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page) for page in pages]
    assert pages[0] == pages[1]


def test_a_hostile_run_is_text_and_nothing_else(tmp_path: Path, make_run: MakeRun, parse: Parse) -> None:
    folder = make_run(tmp_path, "er", description=HOSTILE)
    evil = folder.path.with_name("run<img src=x onerror=alert(1)>&quot;")
    folder.path.rename(evil)
    manifest = json.loads((evil / "manifest.json").read_text())
    manifest |= {"arm": HOSTILE, "preset": HOSTILE, "versions": {HOSTILE: HOSTILE}, "status": HOSTILE}
    (evil / "manifest.json").write_text(json.dumps(manifest))
    spec = (evil / "run.toml").read_text().replace('arm = "er"', f"arm = '{HOSTILE}'")
    (evil / "run.toml").write_text(spec)
    with (evil / "evaluation.csv").open("a") as file:
        file.write(f"{HOSTILE},0,0\n")
    text = render(*gather([evil]))
    parsed = parse(text)
    assert len([tag for tag, _ in parsed.elements if tag == "script"]) == 1
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    assert not [a for _, a in parsed.elements if any(name.startswith("on") for name in a)]
    assert any(HOSTILE in piece for piece in parsed.texts) or HOSTILE in "".join(parsed.texts)


def test_the_axis_of_a_spectrum_ends_where_the_data_do(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[float, float]] = {}
    picture = spectra.picture

    def look(figure: Any, name: str, *others: Any, **more: Any) -> Any:
        seen[name] = figure.axes[0].get_xlim()
        return picture(figure, name, *others, **more)

    monkeypatch.setattr(spectra, "picture", look)
    spectra._densities(comparison, "critic")
    low, high = seen["spectrum-critic"]
    assert -1.0 > low > -4.0  # the eigenvalues run from -1 to 50, and a margin on the scale of the axis
    assert 50.0 < high < 150.0


def test_the_axis_of_an_instrument_has_all_tasks(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    picture = over_switches.picture

    def look(figure: Any, *others: Any, **more: Any) -> Any:
        seen.append(figure.axes[0].get_xlim())
        return picture(figure, *others, **more)

    monkeypatch.setattr(over_switches, "picture", look)
    for run in comparison.runs:  # a single switch was measured
        for moment in [moment for moment in run.moments if moment != (1, "init")]:
            monkeypatch.delitem(run.moments, moment)
    assert over_switches.instruments(comparison)
    assert set(seen) == {(-0.5, comparison.task_count - 0.5)}


def test_an_existing_file_is_never_overwritten(tmp_path: Path, make_run: MakeRun) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(RunFolderError, match="is there already and is left as it is"):
        write_report([make_run(tmp_path / "results").path], out)
    assert out.read_text() == "mine"
    assert first_free(out).name == "report-2.html"
