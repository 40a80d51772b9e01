"""Evidence and comparisons through the command line: mistakes are found before anything is trained, nothing is lost."""
import json
import re
import signal
import time

import pytest

from test_runs import RECIPE, cli, pytestmark, start, write_recipe  # noqa: F401
from test_runs import place  # noqa: F401  pytest finds the fixture here

EXPECT = '\n[[expect]]\nmeasure = "{measure}"\nrelation = "{relation}"\n{more}\n'
BASELINE = "\n[baseline.model.moe.router]\nk = 1\n"


def write_claim(place, head="", baseline=BASELINE, measure="valid_bpb", relation="below_baseline", more="", steps=4):
    path = write_recipe(place, steps=steps, name="claim")
    path.write_text(head + path.read_text() + baseline
                    + EXPECT.format(measure=measure, relation=relation, more=more))
    return path


def line_of(path, text):
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def refused(place, path, *arguments, code=2):
    done = cli("evidence", path, "--threads", 1, *arguments, cwd=place, check=code)
    assert not (place / "runs").exists(), "something was trained"
    return done.stderr


@pytest.mark.parametrize("seeds, words", [("[1, 1]", "1 twice"), ("[]", "names no seed"), ("[-1]", "at least 0, got -1")])
def test_seeds_that_cannot_be_counted_are_refused(place, seeds, words):  # noqa: F811
    path = write_claim(place, head=f"seeds = {seeds}\n")
    said = refused(place, path)
    assert "claim.toml:1: seeds: " in said and words in said


MISSING = [
    ("chrf", "no source of data.sources has translations"),
    ("valid_accuracy", "has no images"),
    ("deciding_share", "has no images"),
    ("routing_noise_rise", "train.routing_noise is 0"),
    ("agreement", "train.agreement is false"),
    ("fluctuation", "gives one evaluation in 4 steps"),
]


@pytest.mark.parametrize("measure, why", MISSING)
def test_a_measure_that_cannot_be_is_refused_before_training(place, measure, why):  # noqa: F811
    path = write_claim(place, measure=measure)
    said = refused(place, path)
    assert f"claim.toml:{line_of(path, '[[expect]]')}: expect[0]: {measure}: the recipe's side cannot measure it: " in said
    assert why in said


def test_a_side_without_experts_has_no_loads(place):  # noqa: F811
    dense = '\n[baseline.model.moe]\nname = "dense"\n'
    for measure in ("max_violation", "training_violation"):
        said = refused(place, write_claim(place, baseline=dense, measure=measure))
        assert f"{measure}: the baseline cannot measure it: no layer of the model assigns tokens to experts" in said
    # A bound is of the recipe's side alone.
    path = write_claim(place, baseline=dense, measure="max_violation", relation="at_most", more="value = 99")
    cli("evidence", path, "--threads", 1, cwd=place, check=0)


@pytest.mark.parametrize("setting, measure", [("noise = 0", "noisy_bpb"), ("noise = 0", "noise_rise")])
def test_a_measure_of_noise_needs_noise(place, setting, measure):  # noqa: F811
    path = write_claim(place, measure=measure)
    path.write_text(path.read_text().replace("[train]", f"[train]\n{setting}"))
    assert "train.noise is 0" in refused(place, path)


@pytest.mark.parametrize("relation", ["at_most", "at_least", "equals"])
def test_a_bound_must_be_there(place, relation):  # noqa: F811
    path = write_claim(place, relation=relation)
    said = refused(place, path)
    assert f"claim.toml:{line_of(path, 'relation')}: expect[0].value: is missing: '{relation}' needs a bound" in said


def test_a_comparison_needs_a_baseline(place):  # noqa: F811
    path = write_claim(place, baseline="")
    assert f"claim.toml:{line_of(path, '[[expect]]')}: expect[0]: valid_bpb: a comparison needs" in refused(place, path)


def test_a_misspelt_expect_is_told(place):  # noqa: F811
    path = write_claim(place)
    path.write_text(path.read_text().replace("[[expect]]", "[[expects]]"))
    said = refused(place, path)
    assert "expects: unknown key; did you mean 'expect'?" in said and "base, expect" in said


@pytest.mark.parametrize("arguments, words", [
    (["--page", "gone/x.html"], "--page gone/x.html: there is no folder gone"),
    (["--page", "/proc/x.html"], "--page /proc/x.html: nothing can be written in /proc"),
    (["--store", "/proc/zz"], "--store: cannot create the folder /proc/zz"),
])
def test_places_are_tried_before_training(place, arguments, words):  # noqa: F811
    assert words in refused(place, write_claim(place), *arguments, code=5)


def test_one_seed_is_called_one_seed(place):  # noqa: F811
    path = write_claim(place, head="seeds = [1]\n", relation="at_most", more="value = 99")
    done = cli("evidence", path, "--threads", 1, "--page", "page.html", cwd=place, check=0)
    assert "held (one seed)" in done.stdout
    verdict = json.loads(re.search(r'"verdict":(\{[^}]*\})', (place / "page.html").read_text())[1])
    assert "state" not in verdict and "with one seed" in verdict["text"]


def test_interrupted_evidence_goes_on_where_it_stopped(place):  # noqa: F811
    path = write_claim(place, head="seeds = [1, 2]\n", relation="at_most", more="value = 99", steps=60)
    whole = ["evidence", path, "--threads", 1, "--runs"]
    cli(*whole, "whole", cwd=place, check=0)
    child = start([*whole, "cut"], place)
    while child.poll() is None and not list((place / "cut").glob("*/checkpoints/LATEST")):
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    error = child.communicate(timeout=60)[1]
    assert child.returncode == 130 and "the same command goes on from there" in error
    n_before = len([p for p in (place / "cut").iterdir() if p.is_dir()])
    done = cli(*whole, "cut", cwd=place, check=0)
    assert "goes on where it was interrupted" in done.stderr
    runs = {p.name.rsplit("-", 2)[0]: p for p in (place / "cut").iterdir() if p.is_dir()}
    assert n_before >= 1 and len(list((place / "cut").glob("*/config.toml"))) == 4
    for folder in (p for p in (place / "whole").iterdir() if p.is_dir()):
        other = runs[folder.name.rsplit("-", 2)[0]]
        assert (folder / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_what_is_judged_already_stays_judged(place):  # noqa: F811
    """The same exit code and the same table, trained or not."""
    path = write_claim(place, head="seeds = [1]\n", relation="at_most", more="value = 0")
    command = ["evidence", path, "--threads", 1, "--store", "store"]
    cli(*command, cwd=place, check=1)
    table, stored = place / "store/README.md", json.loads((place / "store/claim.json").read_text())
    before = table.read_text()
    assert "| claim |" in before and "failed" in before
    table.unlink()
    done = cli(*command, cwd=place, check=1)
    assert table.read_text() == before
    # A build of uncommitted code has no name, so nothing counts as done by it.
    assert ("unchanged since" in done.stdout) == bool(stored["code"])


@pytest.mark.parametrize("arguments, words", [
    (["a", "--seeds", 1], "--seeds goes with --room"),
    (["a", "--reference", "nope.toml"], "--reference goes with --room"),
    (["a", "--also", "nah"], "--also goes with --room"),
    (["a", "--store", "st"], "--store goes with --room"),
    (["a", "--recipes", "r"], "--recipes goes with --room"),
    (["a", "--any-code"], "--any-code goes with --room"),
    (["--room", "route", "--out", "c.html"], "--out is of the page of runs"),
    (["--room", "route", "--title", "x"], "--title is of the page of runs"),
    (["--room", "route", "--label", "x"], "--label is of the page of runs"),
])
def test_compare_reads_what_it_is_given(place, arguments, words):  # noqa: F811
    assert words in cli("compare", *arguments, cwd=place, check=2).stderr
    assert not (place / "c.html").exists()


def test_a_layer_can_be_swapped_whatever_the_baseline_says(place):  # noqa: F811
    path = write_claim(place)
    swap = ["--set", "model.moe={name='soft'}", "--set", "model.allow_noncausal=true"]
    cli("train", path, *swap, "--threads", 1, "--no-report", cwd=place, check=0)
    done = cli("evidence", path, *swap, cwd=place, check=2)
    assert f"claim.toml:{line_of(path, 'baseline')}: baseline.model.moe.router: unknown key" in done.stderr
    # As it is written, a baseline that does not fit is refused by everyone.
    path.write_text(path.read_text().replace("[baseline.model.moe.router]\nk = 1", "[baseline.model.moe]\nkk = 1"))
    assert "baseline.model.moe.kk: unknown key" in cli("train", path, cwd=place, check=2).stderr


def test_a_base_that_is_not_there_names_who_asks(place):  # noqa: F811
    path = place / "hash.toml"
    path.write_text('claim = "x"\nbase = "presets/gone.toml"\n')
    done = cli("train", path, cwd=place, check=2)
    assert "hash.toml:2: base: " in done.stderr and "gone.toml: there is no such file" in done.stderr


def test_a_piped_room_is_of_a_width_to_read(place):  # noqa: F811
    folder = place / "recipes" / "route"
    folder.mkdir(parents=True)
    path = write_claim(place, head='claim = "a claim of many words, which only a terminal has the room to show"\n',
                       relation="at_most", more="value = 99")
    path.write_text(path.read_text() + EXPECT.format(measure="per_token", relation="at_most", more="value = 9"))
    path.rename(folder / "claim.toml")
    cli("evidence", folder / "claim.toml", "--threads", 1, "--store", "store", cwd=place, check=0)
    lines = cli("list", "--room", "route", "--store", "store", cwd=place, check=0).stdout.splitlines()
    assert all(len(line) < 130 for line in lines)
    rows = [line for line in lines if " claim " in line]
    assert len(rows) == 2 and rows[0].endswith("valid_bpb: held") and rows[1].endswith("per_token: held")
    assert "many words" in cli("list", "--room", "route", "--store", "store", "--json", cwd=place, check=0).stdout
