"""The report and compare pages in a real browser: what is drawn, that nothing fails, that nothing leaves the file.

Needs chromium and the built test_inspect (COLLEGIUM_TEST_INSPECT, else the newest build/*/tests/test_inspect).
"""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_fixture import PAGES, main

ROOT = Path(__file__).resolve().parents[2]


def find_browser():
    """A browser that runs: Ubuntu's package is a note that a snap has to be installed."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


CHROMIUM = find_browser()


def page_maker():
    named = os.environ.get("COLLEGIUM_TEST_INSPECT")
    built = (
        [Path(named)]
        if named
        else sorted(ROOT.glob("build/*/tests/test_inspect"), key=lambda path: path.stat().st_mtime)
    )
    return built[-1] if built and built[-1].exists() else None


pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine"),
    pytest.mark.skipif(
        not page_maker(), reason="test_inspect is not built (ninja test_inspect, or COLLEGIUM_TEST_INSPECT)"
    ),
]


class Dom(HTMLParser):
    """Elements of a dumped page as (tag, attributes), and its text outside of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self._inside = [], "", None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag):
        self._inside = None if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside is None:
            self.text += data

    def all(self, tag, name=None):
        """Elements of this tag whose class list has `name`."""
        return [
            attrs
            for found, attrs in self.elements
            if found == tag and (name is None or name in (attrs.get("class") or "").split())
        ]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("pages")
    main(where)
    subprocess.run([page_maker()], env={**os.environ, "COLLEGIUM_PAGES": str(where)}, check=True, capture_output=True)
    return where


@pytest.fixture(scope="session")
def browse(folder, tmp_path_factory):
    """browse(name, script="") opens a page, runs `script` in it, and gives (dom, console messages)."""
    profile = tmp_path_factory.mktemp("profile")

    def open_page(name, script="", width=1280):
        page = folder / f"{name}.html"
        if script:
            html = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
            page = folder / f"{name}.scripted.html"
            page.write_text(html, encoding="utf-8")
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                f"--user-data-dir={profile}",
                f"--window-size={width},2000",
                "--enable-logging=stderr",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=True,
        )
        return Dom(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


@pytest.fixture(scope="session")
def opened(browse):
    """Each page as it stands after loading, opened once."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = browse(name)
        return known[name]

    return get


def lines_of(dom):
    return [attrs["d"] for attrs in dom.all("path", "line")]


def heading_ids(dom):
    return [attrs["id"] for attrs in dom.all("section")]


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_without_a_word_on_the_console(opened, name):
    dom, console = opened(name)
    assert console == []
    assert len(dom.all("main")) == 1 and len(dom.all("h1")) == 1


def test_the_console_check_sees_an_error(browse):
    _, console = browse("report_empty", "throw new Error('on purpose');")
    assert any("on purpose" in line for line in console)


@pytest.mark.parametrize("name", PAGES)
def test_page_refers_to_nothing_outside_itself(folder, opened, name):
    html = (folder / f"{name}.html").read_text(encoding="utf-8")
    without_data = re.sub(r'(?s)(id="data">).*?(?=</script)', r"\1", html)
    assert "://" not in without_data
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|import\(", without_data)
    dom, _ = opened(name)
    for tag, attrs in dom.elements:
        assert "src" not in attrs, tag
        assert not attrs.get("href") or attrs["href"].startswith(("#", "data:")), tag


@pytest.mark.parametrize("name", PAGES)
def test_drawn_numbers_are_finite_and_names_are_there(opened, name):
    dom, _ = opened(name)
    ids = [attrs["id"] for _, attrs in dom.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attrs in dom.elements:
        for key in ("d", "x", "y", "cx", "cy", "x1", "y1", "x2", "y2", "width", "height", "style", "aria-valuetext"):
            assert "NaN" not in (attrs.get(key) or "") and "undefined" not in (attrs.get(key) or ""), (tag, attrs)
        if attrs.get("role") in ("slider", "listbox", "img", "region"):
            assert attrs.get("aria-label"), attrs
    assert not re.search(r"NaN|undefined|\[object", dom.text)


def test_report_draws_every_section(opened):
    dom, _ = opened("report")
    assert heading_ids(dom) == ["loss", "progress", "aux", "experts", "sample", "setup"]
    # Loss: raw, mean, held-out. Speed and gradient norm: raw and mean; learning rate as it is. Two auxiliary losses.
    # Two layers with three small charts, each raw and mean.
    assert len(lines_of(dom)) == 3 + (2 + 2 + 1) + 2 * 2 + 2 * 3 * 2
    assert all(len(path) > 100 for path in lines_of(dom))
    cells = dom.all("canvas", "cells")
    assert len(cells) == 2 and all(int(one["width"]) > 300 and one["height"] == "8" for one in cells)
    assert int(dom.all("canvas", "map")[0]["width"]) > 600
    tokens = len(PAGES["report"]()["sample"]["tokens"])
    assert len(dom.all("span", "token")) == tokens > 40
    assert {"head", "key", "string", "number", "comment"} <= {(attrs.get("class") or "") for attrs in dom.all("span")}
    for words in ("shakespeare_moe", "bits per byte", "layer 3, 8 experts", "tokenizer", "resumed once"):
        assert words in dom.text
    assert "tinyshakespeare (public domain)" in dom.text and "23.54 GiB" in dom.text


def test_duration_leaves_pauses_out(opened):
    dom, _ = opened("report")
    assert re.search(r"[345] min \d+ s in training steps", dom.text)
    dom, _ = opened("report_started")
    assert "in training steps" not in dom.text


def test_single_records_are_dots(opened):
    dom, _ = opened("report_started")
    # Loss, learning rate, gradient norm, two auxiliary losses, two layers with three small charts.
    assert len(dom.all("circle", "dot")) == 1 + 2 + 2 + 2 * 3


@pytest.mark.parametrize("name", ["report", "report_started", "report_wide", "compare"])
def test_every_line_chart_has_a_scale(browse, name):
    script = """document.body.dataset.ticks = JSON.stringify([...document.querySelectorAll('.plot svg')]
      .filter((one) => one.querySelector('.line')).map((one) => one.querySelectorAll('.grid').length));"""
    ticks = json.loads(browse(name, script)[0].all("body")[0]["data-ticks"])
    assert len(ticks) > 5 and min(ticks) >= 2


def test_canvases_are_painted_in_many_colours(browse):
    script = """const canvases = [...document.querySelectorAll('main canvas')];
      document.body.dataset.colours = JSON.stringify(canvases.map((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const seen = new Set();
      for (let i = 0; i < data.length; i += 4) seen.add(data[i] + ',' + data[i + 1] + ',' + data[i + 2]);
      return seen.size; }));"""
    dom, console = browse("report", script)
    assert console == []
    colours = json.loads(dom.all("body")[0]["data-colours"])
    assert len(colours) == 4 and min(colours) >= 8


def test_heat_map_ends_with_the_last_record(browse):
    script = """const [heat] = document.querySelectorAll('.layers [role=slider]');
      heat.dispatchEvent(new KeyboardEvent('keydown', { key: 'End', bubbles: true }));
      const cells = heat.querySelector('canvas');
      document.body.dataset.pixel = [...cells.getContext('2d').getImageData(cells.width - 1, 0, 1, 1).data].slice(0, 3);
      document.body.dataset.swatch = document.querySelector('.tip i').style.background;"""
    dom, _ = browse("report_wide", script)
    body = dom.all("body")[0]
    drawn, told = (list(map(int, re.findall(r"\d+", body[key]))) for key in ("data-pixel", "data-swatch"))
    assert len(drawn) == len(told) == 3 and all(abs(a - b) <= 4 for a, b in zip(drawn, told))


def test_dense_report_says_that_there_are_no_experts(opened):
    dom, _ = opened("report_dense")
    assert heading_ids(dom) == ["loss", "progress", "experts", "setup"]
    assert dom.all("canvas") == [] and "the model is dense" in dom.text
    assert len(lines_of(dom)) == 3 + 5


def test_empty_reports_say_so(opened):
    for name in ("report_empty", "report_bare"):
        dom, _ = opened(name)
        assert "No loss was recorded yet." in dom.text
        assert lines_of(dom) == [] and dom.all("canvas") == []


def test_hostile_text_stays_text(opened):
    dom, console = opened("report_hostile")
    assert console == []
    assert PAGES["report_hostile"]()["run"]["name"] in dom.text
    assert "</script>" in dom.text and "<img src=x onerror=\"throw new Error('note')\">" in dom.text
    assert dom.all("img") == []
    assert r"\x00\x7f" in dom.text


def test_many_rows_are_thinned(opened):
    dom, _ = opened("report_long")
    assert sum(row["kind"] == "train" for row in PAGES["report_long"]()["metrics"]) == 10_000
    longest = max(path.count("L") for path in lines_of(dom))
    assert 500 < longest < 4 * 1280


def test_one_switch_turns_the_axis_of_every_chart(browse):
    def names(dom):
        return re.findall(r"(optimiser step|tokens seen|time since the start)( \(log\))? →", dom.text)

    dom, _ = browse("report")
    assert set(names(dom)) == {("optimiser step", "")}
    charts = len(names(dom))
    press = "document.querySelector('input[name=%s][value=%s]').click();"
    dom, console = browse("report", press % ("x", "tokens") + press % ("log", "true"))
    assert console == [] and names(dom) == [("tokens seen", " (log)")] * charts
    dom, console = browse("report", press % ("x", "seconds") + press % ("unit", "loss"))
    assert console == [] and names(dom) == [("time since the start", "")] * charts
    assert "nats per token ↓" in dom.text


def test_crosshair_and_tokens_follow_the_keyboard(browse):
    script = """const press = (node, key) => node.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
      const [chart] = document.querySelectorAll('[role=slider]');
      press(chart, 'Home'); press(chart, 'ArrowRight');
      const heat = document.querySelector('.layers [role=slider]');
      press(heat, 'ArrowDown'); press(heat, 'ArrowDown');
      const box = document.querySelector('[role=listbox]');
      press(box, 'ArrowRight'); press(box, 'ArrowRight');
      const map = document.querySelector('canvas.map');
      press(map, 'ArrowRight'); press(map, 'ArrowDown');"""
    dom, console = browse("report", script)
    assert console == []
    sliders = [attrs["aria-valuetext"] for _, attrs in dom.elements if attrs.get("role") == "slider"]
    assert re.fullmatch(r"step 10: train \d\.\d{3}, held-out at 50 \d\.\d{3}", sliders[0])
    assert any(re.match(r"step 10: expert 2 [\d.]+ %, against uniform \d\.\d\d×", one) for one in sliders)
    box = next(attrs for _, attrs in dom.elements if attrs.get("role") == "listbox")
    assert box["aria-activedescendant"] == "token-1"
    assert re.search(r"“:”  token 1 \(prompt\), layer 3: first choice expert \d, gate 0\.\d+", dom.text)


def test_experts_can_be_singled_out_and_all_choices_shown(browse):
    script = """document.querySelector('.experts button').click();
      document.querySelectorAll('input[name=choices]')[1].click();"""
    dom, console = browse("report", script)
    assert console == []
    assert any("faded" in attrs["class"].split() for attrs in dom.all("span", "token"))
    striped = [attrs for attrs in dom.all("span", "token") if "linear-gradient" in attrs.get("style", "")]
    assert len(striped) > 40
    assert [attrs["aria-pressed"] for attrs in dom.all("button") if "aria-pressed" in attrs].count("true") == 1


def test_narrow_page_does_not_scroll_sideways(browse):
    script = "document.body.dataset.over = document.documentElement.scrollWidth - document.documentElement.clientWidth;"
    for name in ("report", "report_wide", "compare", "report_hostile"):
        dom, _ = browse(name, script, width=500)
        assert dom.all("body")[0]["data-over"] == "0", name


def test_compare_draws_means_bands_and_seeds(opened):
    dom, _ = opened("compare")
    assert heading_ids(dom) == ["measures", "curves", "differences", "runs"]
    means = dom.all("path", "mean")
    # Held-out, its difference, training, speed and gradient norm for three groups; violation and drops for two.
    assert len([one for one in means if "line" in one["class"].split()]) == 5 * 3 + 2 * 2
    assert len(dom.all("path", "band")) == 5 * 3 + 2 * 2
    assert len(dom.all("path", "seed")) == 3 * (4 * 3 + 2 * 2)
    assert "✓ Held" in dom.text and "model.moe.router.name" in dom.text and "not set" in dom.text
    assert "3 seeds" in dom.text and re.search(r"\d\.\d+ ± 0\.\d+", dom.text)


def test_compare_of_single_seeds_claims_no_certainty(opened):
    dom, _ = opened("compare_single")
    assert "too few seeds to tell from chance" in dom.text
    assert "on every seed" not in dom.text and dom.all("path", "band") == []


def test_compare_names_ties_and_unequal_training(opened):
    dom, _ = opened("compare_tied")
    assert "moe, switch and moe, top-2 (tied) better; too few seeds to tell from chance" in dom.text
    assert "moe, top-2 better; the same for every seed" in dom.text
    assert dom.text.count("no difference") == 1
    assert "−0.0528" in dom.text and "(moe, switch 300, dense 600, moe, top-2 300)" in dom.text
    assert "no fair ranking" not in opened("compare")[0].text


def test_wide_tables_say_that_they_scroll(browse):
    def cues(width):
        return ["hidden" not in attrs for attrs in browse("compare", width=width)[0].all("p", "cue")]

    assert cues(500)[0] and not any(cues(1280))


def test_empty_comparison_says_so(opened):
    dom, _ = opened("compare_empty")
    assert "No metrics were recorded yet." in dom.text and lines_of(dom) == []
