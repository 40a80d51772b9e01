"""The generated pages of docs/ are what the program says now, and the rooms stand in the order that they claim."""
import json
import re
import shlex
import subprocess
import sys
import textwrap

import pytest

from test_runs import CLI, ROOT

pytestmark = pytest.mark.skipif(CLI is None, reason="the command line is not built")


@pytest.mark.parametrize("page", ["cli", "mechanisms"])
def test_generated_pages_are_up_to_date(page):
    said = subprocess.run([str(CLI), "docs", page], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / f"{page}.md").read_text() == said, f"docs/{page}.md is old: run `make docs`"


def test_includes_follow_the_order_of_the_rooms():
    done = subprocess.run([sys.executable, str(ROOT / "tools/check_layers.py")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def contributing_block(language):
    """The first block of that language in CONTRIBUTING.md."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
    assert found
    return textwrap.dedent(found[0][1])


def test_the_router_of_contributing_compiles(tmp_path):
    """With the command that compiles the routers of the tree, without making an object."""
    commands = CLI.resolve().parents[1] / "compile_commands.json"
    if not commands.exists():
        pytest.skip(f"{commands} is not there: the command line is not in a build folder")
    listed = [c for c in json.loads(commands.read_text()) if "collegium_route.dir" in c["command"]]
    if not listed:
        pytest.skip("the build folder compiles no router by itself")
    command = shlex.split(listed[0]["command"])
    path = tmp_path / "scaled_top_k.cpp"
    path.write_text(contributing_block("cpp"))
    out, source = command.index("-o"), command.index("-c")
    command[source + 1] = str(path)
    del command[out:out + 2]
    done = subprocess.run([*command, "-fsyntax-only"], cwd=listed[0]["directory"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_recipe_of_contributing_is_one():
    """It cannot be read before its router is there; but every key is one that recipes have."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    def keys(table, path=""):
        for key, value in table.items():
            for item in value if isinstance(value, list) and isinstance(value[0], dict) else [value]:
                yield path + key
                if isinstance(item, dict) and key != "router":
                    yield from keys(item, path + key + ".")
    known = {key for file in (ROOT / "recipes").rglob("*.toml") for key in keys(tomllib.loads(file.read_text()))}
    recipe = tomllib.loads(contributing_block("toml"))
    assert set(keys(recipe)) <= known
    assert (ROOT / "recipes/route" / recipe["base"]).exists()
    fields = set(re.findall(r'field\("(\w+)"', contributing_block("cpp")))
    for router in (recipe["model"]["moe"]["router"], recipe["baseline"]["model"]["moe"]["router"]):
        assert set(router) - {"name"} <= fields
