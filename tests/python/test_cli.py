"""The built program from outside: streams, exit codes, signals, completion in real shells, and its screen in tmux.

The binary is COLLEGIUM_CLI, else the newest build/*/cli/collegium.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_program():
    if "COLLEGIUM_CLI" in os.environ:
        return pathlib.Path(os.environ["COLLEGIUM_CLI"]).resolve()
    built = sorted(ROOT.glob("build/*/cli/collegium"), key=lambda path: path.stat().st_mtime)
    return built[-1] if built else None


PROGRAM = find_program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="collegium is not built")


def environment(**changes):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("COLLEGIUM_") and k not in ("CI", "NO_COLOR")}
    kept |= {"TERM": "xterm", "LANG": "C.UTF-8"}
    return {k: v for k, v in (kept | changes).items() if v is not None}


def run(*args, **changes):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, env=environment(**changes), cwd=ROOT)


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


# Streams and exit codes


def test_result_on_stdout_and_nothing_on_stderr():
    ran = run("list", "--names")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split()


def test_mistakes_go_to_stderr_with_a_hint():
    ran = run("doctr")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "collegium: error: unknown command 'doctr'\n  hint: did you mean 'doctor'?\n"


def test_json_of_results_and_errors():
    assert json.loads(run("doctor", "--json").stdout)["torch"]["threads"] >= 1
    ran = run("show", "no_such_mechanism", "--json")
    assert ran.returncode == 2
    assert json.loads(ran.stdout)["error"]["kind"] == "usage"


def test_every_command_explains_itself():
    names = re.findall(r"^## collegium (\S+)", run("docs", "cli").stdout, re.M)
    assert {"list", "show", "data", "doctor", "completion", "help"} <= set(names)
    for name in names:
        ran = run(name, "--help")
        assert ran.returncode == 0 and ran.stdout.startswith(f"usage: collegium {name}"), name


def test_every_listed_mechanism_can_be_shown():
    for entry in json.loads(run("list", "--json").stdout)[:20]:
        shown = run("show", f"{entry['catalogue']}/{entry['name']}", "--json")
        assert json.loads(shown.stdout)["summary"] == entry["summary"]


def test_the_locale_changes_no_numbers():
    plain = json.loads(run("doctor", "--json", LC_ALL="C").stdout)
    german = json.loads(run("doctor", "--json", LC_ALL="de_DE.UTF-8").stdout)
    assert german["memory"]["total_bytes"] == plain["memory"]["total_bytes"]


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run([PROGRAM, "docs", "cli"], stdout=writing, stderr=subprocess.PIPE, env=environment())
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_an_error():
    with open("/dev/full", "w") as full:
        ran = subprocess.run([PROGRAM, "docs", "cli"], stdout=full, stderr=subprocess.PIPE, env=environment())
    assert ran.returncode == 5
    assert b"No space left on device" in ran.stderr


def test_no_control_characters_in_a_pipe():
    for args in (["--help"], ["doctor"], ["list"], ["docs", "mechanisms"]):
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", run(*args).stdout)
    assert "\x1b[" in run("doctor", CLICOLOR_FORCE="1").stdout
    assert "\x1b[" not in run("doctor", CLICOLOR_FORCE="1", NO_COLOR="1").stdout


# Completion in the shells themselves


@pytest.fixture
def place(tmp_path):
    """A folder with a recipe, and `collegium` in PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/collegium").symlink_to(PROGRAM)
    (tmp_path / "recipes/route").mkdir(parents=True)
    (tmp_path / "recipes/route/one.toml").write_text("")
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / shell).write_text(run("completion", shell).stdout)
    return tmp_path


def shell_run(place, *command, **changes):
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(command, capture_output=True, text=True, cwd=place,
                          env=environment(PATH=path, HOME=str(place), **changes))


def first_dataset():
    return json.loads(run("data", "list", "--json").stdout)[0]["name"]


def first_entry():
    return run("list", "--names").stdout.split()[0]


def complete_bash(place, line):
    """What bash offers at the end of `line`, split into words as bash does, '=' apart."""
    words = re.findall(r"=|[^\s=]+", line) + ([""] if line.endswith(" ") else [])
    script = (f"source {place / 'bash'}; COMP_WORDS=({' '.join(shlex.quote(w) for w in words)}); "
              f"COMP_CWORD={len(words) - 1}; _collegium; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    ran = shell_run(place, "bash", "--norc", "-c", script)
    assert "rror" not in ran.stderr, ran.stderr
    return ran.stdout.split()


def complete_fish(place, line):
    # The program's own script alone, not what the machine may have installed.
    script = f"source {place / 'fish'}; complete -C {shlex.quote(line)}"
    ran = shell_run(place, "fish", "--no-config", "-c", script)
    assert ran.stderr == ""
    return [offer.split("\t")[0] for offer in ran.stdout.splitlines()]


ZSH_CAPTURE = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=READY%%; cd %(place)s; autoload -Uz compinit; compinit -u -d %(place)s/.dump; source %(place)s/zsh'
zpty -w shell 'zstyle ":completion:*" list-prompt ""; setopt nolistbeep noautomenu noalwayslastprompt; LISTMAX=0'
zpty -w shell 'compadd() {
  [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]] && { builtin compadd "$@"; return; }
  typeset -a __hits; builtin compadd -A __hits "$@"; print -l -- "HIT "$^__hits; builtin compadd "$@"
}'
zpty -w shell 'echo FIN''ISHED'
zpty -r shell line '*FINISHED*'
zpty -w -n shell $'%(line)s\t'
zpty -w -n shell $'\x15echo EN''D\n'
zpty -r shell answer '*END*'
print -r -- $answer
"""


def complete_zsh(place, line):
    script = ZSH_CAPTURE % {"place": place, "line": line}
    ran = shell_run(place, "timeout", "60", "zsh", "-f", "-c", script)
    return re.findall(r"HIT (\S+)", ran.stdout)


SHELLS = [pytest.param(complete_bash, marks=needs("bash"), id="bash"),
          pytest.param(complete_zsh, marks=needs("zsh"), id="zsh"),
          pytest.param(complete_fish, marks=needs("fish"), id="fish")]


@pytest.mark.parametrize("complete", SHELLS)
def test_completion(place, complete):
    commands = complete(place, "collegium ")
    assert {"list", "show", "data", "doctor", "completion"} <= set(commands)
    assert "docs" not in commands
    assert complete(place, "collegium doc")[0] == "doctor"
    assert set(complete(place, "collegium completion ")) == {"bash", "zsh", "fish"}
    assert "--taxonomy" in complete(place, "collegium list --ta")
    assert "--json" in complete(place, "collegium doctor --js")
    assert {"list", "get", "info", "path"} <= set(complete(place, "collegium data "))
    assert first_dataset() in complete(place, "collegium data get ")
    assert first_dataset() in complete(place, "collegium data get other ")
    assert first_entry() in complete(place, "collegium show ")
    # The value of an option is no argument: SHOW's name is still to come.
    catalogue = json.loads(run("list", "--json").stdout)[0]["catalogue"]
    assert catalogue in complete(place, "collegium list --paper 3 ")


@needs("bash")
def test_bash_script_has_no_syntax_error(place):
    assert shell_run(place, "bash", "-n", place / "bash").returncode == 0


# The screen


@needs("tmux")
@pytest.mark.parametrize("width", [40, 80])
def test_screen_fits_the_terminal(place, width):
    """Nothing wraps: every line of the help and of doctor's table fits the window."""
    socket = str(place / "tmux")
    tmux = ["tmux", "-S", socket, "-f", "/dev/null"]
    shell = shutil.which("bash")
    subprocess.run([*tmux, "new-session", "-d", "-x", str(width), "-y", "100", f"{shell} --norc"], check=True,
                   cwd=place, env=environment())
    try:
        # -J joins what the terminal wrapped, so a line that did not fit shows up too long.
        subprocess.run([*tmux, "send-keys", f"PS1=; clear; {PROGRAM} help list; echo EN''D", "Enter"], check=True)
        screen = ""
        for _ in range(600):
            screen = subprocess.run([*tmux, "capture-pane", "-p", "-J"], capture_output=True, text=True).stdout
            if re.search(r"^END$", screen, re.M):
                break
            time.sleep(0.1)
        shown = screen.split("END\n")[0]
        assert "usage: collegium list" in shown
        assert all(len(line.rstrip()) <= width for line in shown.splitlines())
    finally:
        subprocess.run([*tmux, "kill-server"])
