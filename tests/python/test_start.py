"""Runs that start from the weights of others (train.init_from), and noise on the routers' logits in the last evaluation."""
import hashlib
import json
import shutil

import pytest
from test_runs import CLI, cli, final_state, place, write_recipe  # noqa: F401

safetensors = pytest.importorskip("safetensors.torch")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(CLI is None, reason="the command line is not built")

ROUTERS = "layers.{}.feed_forward.router.scorer.weight"


def runs(place, name=""):
    return sorted(p for p in (place / "runs").iterdir() if p.is_dir() and p.name.startswith(name))


def weights(run, step=None):
    steps = sorted((run / "checkpoints").glob("step-*"))
    return safetensors.load_file((steps[-1] if step is None else run / f"checkpoints/step-{step:08}") / "weights.safetensors")


def said(done):
    return (done.stdout + done.stderr).replace("\n", " ")


@pytest.fixture
def source(place):  # noqa: F811
    cli("train", write_recipe(place, steps=4, name="source"), "--no-report", cwd=place, check=0)
    return runs(place, "source")[0]


ADA = ["--set", "model.moe.router.name=ada_moe", "--set", "model.moe.router.k=3", "--set",
       "model.moe.router.null_experts=6"]
WIDER = [*ADA, "--set", 'train.init_rows=["*.router.scorer.weight"]']


def test_a_run_starts_from_the_weights_of_another(place, source):  # noqa: F811
    recipe = write_recipe(place, steps=2, name="tuned")
    done = json.loads(cli("train", recipe, "--init-from", source.name, "--no-report", "--json", cwd=place, check=0).stdout)
    run = runs(place, "tuned")[0]
    last, first = weights(source), weights(run, 0)
    assert set(first) == set(last) and all(torch.equal(first[k], last[k]) for k in last)
    assert not all(torch.equal(weights(run)[k], last[k]) for k in last)  # and learns on
    record = json.loads((run / "init.json").read_text())
    assert set(record["taken"]) == set(last) and not record["rows"] + record["new"] + record["left_over"]
    assert record["run"] == source.name and record["step"] == 4
    assert source.name in done["start"][0] and f"{len(last)} tensors taken" in done["start"]
    # The configuration names the weights, so other weights are another configuration.
    file = source / "checkpoints/step-00000004/weights.safetensors"
    assert f'init_weights = "{hashlib.sha256(file.read_bytes()).hexdigest()}"' in (run / "config.toml").read_text()


@pytest.mark.parametrize("where", ["run folder", "checkpoints", "checkpoint", "copied checkpoint"])
def test_a_source_may_be_a_folder(place, source, where):  # noqa: F811
    folder = {"run folder": source, "checkpoints": source / "checkpoints"}.get(where, source / "checkpoints/step-00000004")
    if where == "copied checkpoint":
        folder = shutil.copytree(folder, place / "kept" / folder.name)
    cli("train", write_recipe(place, steps=1, name="tuned"), "--init-from", folder, "--no-report", cwd=place, check=0)
    first, last = weights(runs(place, "tuned")[0], 0), weights(source)
    assert all(torch.equal(first[k], last[k]) for k in last)


def test_a_router_with_null_experts_takes_the_rows_of_the_true_ones(place, source):  # noqa: F811
    recipe = write_recipe(place, steps=1, name="tuned")
    done = cli("train", recipe, "--init-from", source, *ADA, cwd=place, check=2)
    assert ROUTERS.format(0) in said(done) and "[4, 32] there and [10, 32] here" in said(done)
    assert "init_rows" in said(done) and not runs(place, "tuned")
    done = cli("train", recipe, "--init-from", source, *WIDER, "--no-report", cwd=place, check=0)
    assert "first 4 rows taken (4 there, 10 here): layers.*.feed_forward.router.scorer.weight (2)" in done.stdout
    first, last = weights(runs(place, "tuned")[0], 0), weights(source)
    for layer in range(2):
        here, there = first[ROUTERS.format(layer)], last[ROUTERS.format(layer)]
        assert torch.equal(here[:4], there) and here[4:].abs().min() > 0


def test_new_and_left_over_tensors_are_listed(place, source):  # noqa: F811
    # loss_free brings a bias that the source lacks; a dense layer leaves the source's router and experts over.
    recipe = write_recipe(place, router="loss_free", steps=1, name="tuned")
    cli("train", recipe, "--init-from", source, "--set", 'train.init_fresh=["*.router.scorer.weight"]', "--no-report",
        cwd=place, check=0)
    record = json.loads((runs(place, "tuned")[0] / "init.json").read_text())
    assert ROUTERS.format(1) in record["new"] and ROUTERS.format(1) in record["left_over"]
    assert any("bias" in name for name in record["new"])
    assert not torch.equal(weights(runs(place, "tuned")[0], 0)[ROUTERS.format(0)], weights(source)[ROUTERS.format(0)])


def test_a_resumed_run_does_not_need_its_source(place, source):  # noqa: F811
    recipe = write_recipe(place, steps=20, name="tuned", extra="")
    cli("train", recipe, "--init-from", source.name, "--no-report", cwd=place, check=0)
    run = runs(place, "tuned")[0]
    name, whole = final_state(run)
    shutil.rmtree(source)
    shutil.rmtree(run / "checkpoints" / name)
    assert [p.name for p in (run / "checkpoints").glob("step-*")]
    cli("train", recipe, "--init-from", source.name, "--resume", "--run", run.name, "--no-report", cwd=place, check=0)
    assert final_state(run) == (name, whole)
    # From other weights it would be another run.
    done = cli("train", recipe, "--resume", "--run", run.name, "--no-report", cwd=place, check=3)
    assert "init_from" in said(done)


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(place, source):  # noqa: F811
    recipe = write_recipe(place, steps=3, name="tuned")
    cli("train", recipe, "--init-from", source.name, "--no-report", cwd=place, check=0)
    run = runs(place, "tuned")[0]
    expected = final_state(run)
    shutil.rmtree(run / "checkpoints")
    cli("train", recipe, "--init-from", source.name, "--resume", "--run", run.name, "--no-report", cwd=place, check=0)
    assert final_state(run) == expected
    # Not from others that bear the name now.
    shutil.rmtree(run / "checkpoints")
    cli("train", place / "source.toml", "--set", "train.steps=5", "--name", "other", "--no-report", cwd=place, check=0)
    shutil.rmtree(source / "checkpoints")
    shutil.copytree(runs(place, "other")[0] / "checkpoints", source / "checkpoints")
    done = cli("train", recipe, "--init-from", source.name, "--resume", "--run", run.name, cwd=place, check=3)
    assert "has other weights" in said(done)


def test_another_tokenizer_is_refused(place, source):  # noqa: F811
    recipe = write_recipe(place, steps=1, name="tuned")
    done = cli("train", recipe, "--init-from", source, "--set", "data.tokenizer=bpe", cwd=place, check=2)
    assert "embedding' is [257, 32] there" in said(done)  # another vocabulary
    shutil.rmtree(source)
    words = place / "tokenizers"
    words.mkdir()
    for name, text in (("ours", "router " * 50), ("theirs", "expert " * 50)):
        (place / f"{name}.txt").write_text(text)
        made = write_recipe(place, steps=1, name=name)
        cli("train", made, "--set", f"data.sources=['{place / name}.txt']", "--set", "data.tokenizer=bpe", "--set",
            "data.vocab_size=260", "--set", "data.gap=8", "--no-report", cwd=place, check=0)
        shutil.copy(runs(place, name)[0] / "tokenizer.json", words / f"{name}.json")
    cli("train", place / "source.toml", "--set", f"data.tokenizer='{words / 'ours.json'}'", "--no-report", cwd=place, check=0)
    source = runs(place, "source")[0]
    other = ["--set", f"data.tokenizer='{words / 'theirs.json'}'"]
    done = cli("train", recipe, "--init-from", source, "--no-report", *other, cwd=place, check=3)
    assert "another tokenizer" in said(done) and "data.tokenizer" in said(done) and not runs(place, "tuned")
    copy = shutil.copytree(source / "checkpoints/step-00000004", place / "kept/step-00000004")
    done = cli("train", recipe, "--init-from", copy, "--no-report", *other, cwd=place, check=3)
    assert "is not known" in said(done)
    shutil.copy(source / "tokenizer.json", copy)
    cli("train", recipe, "--init-from", copy, "--set", f"data.tokenizer='{words / 'ours.json'}'", "--set", "data.gap=32",
        "--no-report", cwd=place, check=0)


@pytest.mark.parametrize("arguments, code, words", [
    (["--init-from", "sourc3"], 2, "source"),
    (["--init-from", "."], 2, "neither a run (no config.toml) nor a checkpoint (no manifest.json)"),
    (["--init-from", "nowhere.toml"], 2, "nowhere.toml"),
    (["--set", 'train.init_rows=["*"]'], 2, "train.init_from, which names none"),
    (["--init-from", "source", "--set", 'train.init_rows=["*.router.scorer.wieght"]'], 2, "did you mean '*.router.scorer.weight'?"),
    (["--init-from", "source", "--set", "model.d_model=64"], 2, "[257, 32] there and [257, 64] here"),
    (["--init-from", "source", "--set", 'train.init_weights="00"'], 3, "has other weights"),
])
def test_bad_sources_have_their_errors(place, source, arguments, code, words):  # noqa: F811
    done = cli("train", write_recipe(place, steps=1, name="tuned"), *arguments, "--no-report", cwd=place, check=code)
    assert words in said(done) and not runs(place, "tuned")


def test_a_damaged_source_is_named(place, source):  # noqa: F811
    file = source / "checkpoints/step-00000004/weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    done = cli("train", write_recipe(place, steps=1, name="tuned"), "--init-from", source, "--no-report", cwd=place, check=4)
    assert "weights.safetensors" in said(done)


def write_evidence(place):
    write_recipe(place, steps=3, name="existing")
    path = write_recipe(place, steps=2, name="claim", router="ada_moe")
    path.write_text("""claim = "null experts go on from a trained model"
seeds = [1, 2]
""" + path.read_text().replace('router = { name = "ada_moe" }', 'router = { name = "ada_moe", k = 3, null_experts = 4 }')
        .replace("[train]", '[train]\ninit_from = "existing.toml"\ninit_rows = ["*.router.scorer.weight"]') + """
[baseline.model.moe]
router = { name = "top_k" }

[[expect]]
measure = "per_token"
relation = "at_most"
value = 3
""")
    return path


def test_evidence_trains_a_source_once_a_seed_and_finds_it_again(place):  # noqa: F811
    recipe = write_evidence(place)
    plan = json.loads(cli("plan", recipe, "--no-measure", "--json", cwd=place, check=0).stdout)
    assert plan["source_tokens"] == 3 * 4 * 32 and any("first 4 rows" in line for line in plan["start"])
    done = cli("evidence", recipe, "--store", "kept", "--page", "page.html", cwd=place, check=0)
    for name in ("existing", "claim-s", "claim-baseline"):
        assert [p.name.split("-s")[1][0] for p in runs(place, name)] == ["1", "2"], name
    assert "training existing, seed 2" in done.stderr  # which run is under way
    for seed in (1, 2):
        origin = [r for r in runs(place, "existing") if f"-s{seed}-" in r.name][0]
        for side in ("claim-s", "claim-baseline"):
            run = [r for r in runs(place, side) if f"-s{seed}-" in r.name][0]
            assert json.loads((run / "init.json").read_text())["run"] == origin.name
    # Again, from elsewhere: nothing is trained.
    cli("evidence", recipe, "--again", "--store", "kept", "--runs", place / "runs", cwd=place.parent, check=0)
    assert len(runs(place)) == 6
    assert "source_tokens" not in json.loads(cli("plan", recipe, "--no-measure", "--json", cwd=place, check=0).stdout)
    # Another source is other evidence.
    existing = place / "existing.toml"
    existing.write_text(existing.read_text().replace("steps = 3", "steps = 4"))
    hashes = [json.loads((place / "kept/claim.json").read_text())["recipe_hash"]]
    cli("evidence", recipe, "--store", "kept", cwd=place, check=0)
    assert len(runs(place)) == 12
    assert json.loads((place / "kept/claim.json").read_text())["recipe_hash"] not in hashes


def test_recipes_in_a_circle_are_refused(place):  # noqa: F811
    for name, other in (("a", "b"), ("b", "a")):
        path = write_recipe(place, steps=1, name=name)
        path.write_text(path.read_text().replace("[train]", f'[train]\ninit_from = "{other}.toml"'))
    done = cli("train", place / "a.toml", cwd=place, check=2)
    assert "circle" in said(done)


def test_a_source_that_does_not_fit_is_refused_before_it_is_trained(place):  # noqa: F811
    recipe = write_evidence(place)
    recipe.write_text(recipe.read_text().replace("init_rows", "# init_rows"))
    done = cli("evidence", recipe, cwd=place, check=2)
    assert "[4, 32] there and [8, 32] here" in said(done)
    assert not (place / "runs").exists() or not runs(place)


def last_row(run):
    return [r for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if r["kind"] == "valid"][-1]


def test_routing_noise_is_measured_at_the_end(place):  # noqa: F811
    recipe = write_recipe(place, steps=12, name="noisy")
    for name, noise in (("one", 1), ("again", 1), ("three", 3), ("none", 0)):
        cli("train", recipe, "--set", f"train.routing_noise={noise}", "--name", name, "--no-report", cwd=place, check=0)
    rows = {name: last_row(runs(place, name)[0]) for name in ("one", "again", "three", "none")}
    assert "routing_noise_bpb" not in rows["none"] and rows["one"]["bpb"] == rows["none"]["bpb"]
    assert rows["one"]["routing_noise_bpb"] == rows["again"]["routing_noise_bpb"]
    for name in ("one", "three"):
        row = rows[name]
        assert row["routing_noise_rise"] == pytest.approx(row["routing_noise_bpb"] - row["bpb"], abs=1e-12)
        assert row["routing_noise_rise"] != 0
    # Who does not route is not disturbed.
    cli("train", recipe, "--set", "train.routing_noise=3", "--set", "model.moe={name=\"dense\"}", "--name", "dense",
        "--no-report", cwd=place, check=0)
    assert last_row(runs(place, "dense")[0])["routing_noise_rise"] == 0
