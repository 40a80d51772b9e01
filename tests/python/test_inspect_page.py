"""The page of `inspect` in a real browser; needs what test_pages.py needs."""

import json
import os
import subprocess

import pytest
from test_pages import CHROMIUM, Dom, page_maker

pytestmark = pytest.mark.skipif(not CHROMIUM or not page_maker(), reason="no chromium, or test_inspect is not built")


def layer(experts, **more):
    even = [1 / experts] * experts
    return {"layer": 0, "n_experts": experts, "per_token": 1, "load": even, "entropy": 1, "max_violation": 0} | more


def half_chosen():
    """Half a choice a token: where an expert has a token, another has it, too, half of the time."""
    return layer(2, per_token=0.5, pairs=[[1, 0.5], [0.5, 1]])


def history(experts, layers=1):
    row = {"layer": 0, "load": [1 / experts] * experts, "max_violation": 0.5}
    return [{"step": step, "layers": [row] * layers} for step in (10, 20, 30)]


PAGES = {
    "inspect_half": {"title": "half", "layers": [half_chosen()], "history": history(2), "step": 30},
    "inspect_many": {
        "title": "many",
        "layers": [
            layer(
                1600,
                favourites=[["a"]] * 1600,
                classes=[{"name": "word start", "tokens": 99, "share": [1 / 1600] * 1600}],
            )
        ],
        "history": history(1600),
    },
    "inspect_trace": {
        "title": "alone",
        "remark": "from the trace alone: what changed during training is told of a run only",
        "layers": [layer(4, layer=4, name="attention 0", null_share=0.25)],
    },
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    for name, data in PAGES.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
    subprocess.run([page_maker()], env={**os.environ, "COLLEGIUM_PAGES": str(folder)}, check=True, capture_output=True)

    def get(name):
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             f"--user-data-dir={folder / 'profile'}", "--window-size=1280,2000", "--enable-logging=stderr",
             "--dump-dom", (folder / f"{name}.html").as_uri()],
            capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
        assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Dom(done.stdout)

    return get


def background(cell):
    return cell["style"].split("background: ")[1].split(";")[0]


def test_pairs_are_coloured_against_the_row_s_own_number_of_choices(opened):
    cells = opened("inspect_half").all("td", "ratio")
    load, pairs = cells[:2], cells[2:]
    assert len(pairs) == 4
    # Row by row; the diagonal says nothing. As often as chance would have it is the grey of an even load.
    assert background(pairs[1]) == background(pairs[2]) == background(load[0])
    assert background(pairs[0]) != background(pairs[1])


def test_load_over_training_is_drawn(opened):
    dom = opened("inspect_half")
    assert len(dom.all("canvas", "cells")) == 1 and "During training" in dom.text and "of each expert" in dom.text
    many = opened("inspect_many")
    assert len(many.all("canvas", "cells")) == 1 and "of 1600 experts, 50 a row" in many.text
    assert not opened("inspect_trace").all("canvas", "cells")


def test_many_experts_are_drawn_in_groups(opened):
    dom = opened("inspect_many")
    assert len(dom.all("td", "ratio")) == 2 * 32
    assert "Each column is 50 experts together." in dom.text and "The busiest 32 of 1600 experts." in dom.text
    assert "1550–1599" in dom.text


def test_a_trace_alone_says_so_and_names_its_layers(opened):
    text = opened("inspect_trace").text
    assert "Seen from the trace alone" in text and "Attention 0, 4 experts" in text
    assert "Null experts" in text and "25 %" in text
