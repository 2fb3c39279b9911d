"""The report's page as a browser shows it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Parse = Callable[[str], Any]


def test_in_a_browser_the_slider_moves_and_the_console_is_silent(page: Path, browse, parse: Parse) -> None:
    dom, log = browse(f"{page.as_uri()}#switch=2")
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    parsed = parse(dom.removeprefix("<!DOCTYPE html>"))
    (html,) = [a for tag, a in parsed.elements if tag == "html"]
    assert html["data-shown"] == "2"
    frames = [a for tag, a in parsed.elements if tag == "g" and "data-switch" in a]
    assert frames
    for frame in frames:
        hidden = "none" in (frame.get("style") or "")
        assert hidden == (frame["data-switch"] != "2")
    assert "to task 2: CartPole-v1" in "".join(parsed.texts)


def test_in_a_browser_moving_the_slider_by_hand_changes_the_picture_that_is_saved(
    page: Path, browse, tmp_path: Path
) -> None:
    hand = """<script>
        const slider = document.getElementById("switch");
        slider.value = 1;
        slider.dispatchEvent(new Event("input"));
        const link = document.querySelector("#spectrum-actor a.svg");
        link.addEventListener("click", async (event) => {
            event.preventDefault();
            const svg = await (await fetch(link.href)).text();
            document.title = [...new Set(svg.match(/data-switch="\\d+"/g))].join() + svg.slice(0, 4)
                + svg.match(/actor: density[^<]*/)[0] + " in " + link.download;
        });
        link.click();
    </script></body>"""
    moved = tmp_path / "moved.html"
    moved.write_text(page.read_text(encoding="utf-8").replace("</body>", hand), encoding="utf-8")
    dom, log = browse(moved.as_uri(), "--virtual-time-budget=3000")
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    assert 'data-shown="1"' in dom
    name = "actor: density at the switch to task 1 in spectrum-actor-switch-1.svg"
    assert f'<title>data-switch="1"&lt;svg{name}</title>' in dom


def test_in_a_browser_the_page_is_no_wider_than_a_phone(page: Path, browse, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"<iframe id=f style='width:390px;height:800px' src='{page.as_uri()}'></iframe>"
        "<script>onload = () => { const d = document.getElementById('f').contentDocument.documentElement; "
        "document.title = `${d.scrollWidth} of ${d.clientWidth}`; }</script>"
    )
    dom, _ = browse(probe.as_uri(), "--allow-file-access-from-files")
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= 390
