"""`collegium bench` from outside: instruction sets in processes of their own, Python's comparisons on the same page, Ctrl-C."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from test_cli import PROGRAM, environment
from test_pages import CHROMIUM

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="collegium is not built")


def bench(*words, folder=None, **changes):
    return subprocess.run([PROGRAM, "bench", *words], capture_output=True, text=True, cwd=folder, env=environment(**changes))


def has_package():
    folder = PROGRAM.parents[1] / "python"
    code = "import collegium.transformers"
    return subprocess.run([sys.executable, "-c", code], env=environment(PYTHONPATH=str(folder)), capture_output=True).returncode == 0


def sets():
    """The instruction sets that --isa all means here."""
    known = json.loads(bench("routers", "--quick", "-n", "1", "--json", "--quiet").stdout)["kernels"]
    return known.split(", ")


def test_every_instruction_set_has_its_rows(tmp_path):
    page = tmp_path / "bench.html"
    ran = bench("experts", "dense", "--isa", "all", "--quick", "-n", "1", "--type", "float32", "--json", "--quiet",
                "--out", str(page))
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert sorted({row["kernels"] for row in said["experts"]}) == sorted(sets())
    for isa in sets():
        mine = [row for row in said["experts"] if row["kernels"] == isa]
        assert [row["pass"] for row in mine] == ["fwd", "fwd+bwd", "fwd"]
        assert all(row["dense_flops_per_second"] > 0 for row in mine)
        assert f"Expert layers, {isa}" in page.read_text()
    (memory,) = said["memory"]
    assert memory["saved_bytes_per_token"]["collegium"] < memory["saved_bytes_per_token"]["loop"]
    assert all(peak > 0 for peak in memory["peak_mib"].values())


def test_training_steps_have_a_ratio_for_both_of_ours():
    said = json.loads(bench("steps", "--quick", "-n", "2", "--json", "--quiet").stdout)
    whose = [row["who"] for row in said["steps"] if row["model"] == "Mixtral"]
    assert whose[:2] == ["collegium", "collegium experts"] and whose[-1] == "loop"
    for row in said["steps"]:
        assert row["tokens_per_second"] > 0
        assert ("ratios" in row) == row["who"].startswith("collegium")


def test_events_are_lines_of_json():
    lines = [json.loads(line) for line in bench("routers", "--quick", "-n", "2", "--events").stdout.splitlines()]
    assert [e["event"] for e in lines[:2]] == ["stretch", "section"]
    assert sum(e["event"] == "turn" for e in lines) == lines[0]["turns"]
    assert 2 * sum(e["event"] == "row" for e in lines) == lines[0]["turns"] > 20


@pytest.mark.skipif(not has_package(), reason="the Python package or transformers is not here")
def test_transformers_joins_the_page(tmp_path):
    ran = bench("transformers", "atomic", "cuda", "--python", sys.executable, "--isa", sets()[-1], "--quick", "-n", "1", "--json",
                "--quiet", "--out", str(tmp_path / "b.svg"), folder=pathlib.Path(__file__).parents[2])
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    skipped = {one["what"] for one in said["skipped"]}
    assert skipped <= {"atomic experts", "experts on a CUDA device", "routers beside st-moe-pytorch"}, said["skipped"]
    assert "transformers" in said["python_versions"]
    for part in ("experts", "memory", "models", "routers", "demonstration"):
        assert said[f"transformers-{part}"], part
    assert all(row["error"] < 0.02 for row in said["transformers-experts"])
    names = {row["router"] for row in said["transformers-routers"]}
    assert {"transformers", "top_k", "x_moe"} <= names
    drawn = (tmp_path / "b.svg").read_text()
    assert "OLMoE, float32, collegium" in drawn and "x_moe" not in drawn


def test_a_python_without_the_packages_is_named_with_what_it_lacks(tmp_path):
    ran = bench("transformers-models", "--python", shutil.which("python3"), folder=tmp_path, PYTHONPATH="", PYTHONNOUSERSITE="1")
    if ran.returncode == 0:
        pytest.skip("this Python has all of them")
    assert ran.returncode == 2
    assert "has no" in ran.stderr or "Error" in ran.stderr
    assert "hint: `pip install . transformers`" in ran.stderr


def test_without_python_the_rest_is_measured(tmp_path):
    """A folder whose only python3 is one that fails."""
    broken = tmp_path / "python3"
    broken.write_text("#!/bin/sh\necho this one is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    ran = bench("--quick", "-n", "1", "--json", "--no-memory", "--type", "float32", folder=tmp_path, PATH=str(tmp_path),
                VIRTUAL_ENV=None, COLLEGIUM_ISA=sets()[-1])
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["dense"] and said["experts"] and said["steps"] and said["routers"]
    (skip,) = said["skipped"]
    assert "transformers-models" in skip["what"] and "this one is broken" in skip["why"] and "pip install" in skip["why"]


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    out = tmp_path / "b.json"
    command = [PROGRAM, "bench", "dense", "experts", "--isa", sets()[0], "--quick", "-n", "10000", "--type", "float32", "--out", out]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    until = time.monotonic() + 120
    while not out.exists() and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped early" in errors and "Dense products" in said
    kept = json.loads(out.read_text())
    assert kept["stopped_early"] and kept["dense"] and not kept.get("steps")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_the_page_is_drawn_without_anything_from_outside(tmp_path):
    page = tmp_path / "bench.html"
    assert bench("dense", "routers", "--quick", "-n", "1", "--out", str(page), COLLEGIUM_ISA=sets()[-1]).returncode == 0
    assert not re.findall(r'(?:src|href)="', page.read_text())
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
               page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert dom.count("<svg") == 2 and dom.count("<table>") == 2
    assert "GFLOP/s" in dom and "softmax, top-k" in dom
