"""The generated pages of docs/ are what the program says now, and the rooms stand in the order that they claim."""
import subprocess
import sys

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
