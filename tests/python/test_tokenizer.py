"""Our tokenizers against Hugging Face's: equal ids for text of many languages, equal text for any ids.

The C++ side is the case "tokenizer oracle" of test_data: it trains, encodes and decodes, this side compares. Texts of
shakespeare, milton and udhr join in where the machine has them (see COLLEGIUM_DATA). The binary is
$COLLEGIUM_BUILD/tests/test_data, else the newest one below build/.
"""

import json
import os
import pathlib
import random
import subprocess
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

tokenizers = pytest.importorskip("tokenizers")

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["byte", "bpe_small", "bpe"]

# Where tokenizers go wrong: contractions, white space of all kinds, marks that combine, scripts without spaces, and
# characters whose class changed between versions of Unicode.
FIXED = [
    "",
    " ",
    "   ",
    "\n\n\n  a",
    "a  b   c    ",
    "tab\tand\r\nreturn\x0bvertical\x0cform",
    "it's I'll they'Ve DON'T 's's''s",
    "x=1;y_2+3.14e-5",
    "１２３ ٣٤٥ ⅫⅣ ²³ ½",
    "\u0085\u00a0\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
    "a\u0085b a\u180eb !\u180e! a\u200bb a\u3000 b",
    "e\u0301 n\u0303 \u0301 \u0301a क\u094dष",
    "世界人权宣言 すべての人間は 모든 인간은 มนุษย์ทั้งหลาย",
    "😀👩‍👩‍👧‍👦🇩🇪 👍🏽!",
    "\x00\x01\x1f\x7f",
    "\ufffd\uffff\U0010ffff",
    "ǅ ʰ ª º \u16f1 \u3007",
]


def binary():
    if os.environ.get("COLLEGIUM_BUILD"):
        found = [pathlib.Path(os.environ["COLLEGIUM_BUILD"]) / "tests" / "test_data"]
    else:
        found = sorted(ROOT.glob("build/**/tests/test_data"), key=lambda path: path.stat().st_mtime)
    if not found or not found[-1].exists():
        pytest.skip("test_data is not built")
    return found[-1]


def ask(folder, strings, ids=()):
    (folder / "strings.json").write_text(json.dumps(strings), encoding="utf-8")
    (folder / "ids.json").write_text(json.dumps(list(ids)), encoding="utf-8")
    done = subprocess.run(
        [binary(), "-tc=tokenizer oracle"],
        env={**os.environ, "COLLEGIUM_ORACLE": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answer(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def only_common(string):
    """Without characters newer than Unicode 14, the tables of Debian 12's PCRE2: what is a letter to a later Unicode
    is not assigned there, so the two sides would cut words at other places."""
    newer = (range(0x31350, 0x323B0), range(0x2EBF0, 0x2EE5E), range(0x11F00, 0x11F60), range(0x1E4D0, 0x1E500))
    return "".join(c for c in string if unicodedata.category(c) != "Cn" and not any(ord(c) in r for r in newer))


def hypothesis_strings(count):
    """Strings that hypothesis draws, as one list: one run of the binary for all of them."""
    drawn = []

    @settings(max_examples=count, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(
            st.text(max_size=200),
            st.text(alphabet=st.characters(categories=["Z", "Cc", "L", "N"]), max_size=100),
            st.lists(st.sampled_from(FIXED), max_size=6).map("".join),
        )
    )
    def draw(string):
        drawn.append(string)

    draw()
    return [only_common(string) for string in drawn if "<|end|>" not in string]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    numbers = random.Random(1)
    ids = [[numbers.randrange(1 << 20) for _ in range(numbers.randrange(60))] for _ in range(500)]
    print(ask(folder, FIXED + hypothesis_strings(2000), ids))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_equal(folder, name):
    theirs = tokenizers.Tokenizer.from_file(str(folder / f"{name}.json"))
    strings = answer(folder, "all_strings.json")
    ours = answer(folder, f"{name}.encoded.json")
    assert len(strings) == len(ours)
    wrong = [
        (string[:80], ids[:20], encoded.ids[:20])
        for string, ids, encoded in zip(strings, ours, theirs.encode_batch(strings))
        if ids != encoded.ids
    ]
    assert not wrong, f"{len(wrong)} of {len(strings)} differ, first: {wrong[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_decoded_text_is_equal(folder, name):
    theirs = tokenizers.Tokenizer.from_file(str(folder / f"{name}.json"))
    size = theirs.get_vocab_size()
    lists = [[number % size for number in ids] for ids in answer(folder, "ids.json")]
    assert answer(folder, f"{name}.decoded.json") == theirs.decode_batch(lists)


@pytest.mark.parametrize("name", NAMES)
def test_text_comes_back(folder, name):
    theirs = tokenizers.Tokenizer.from_file(str(folder / f"{name}.json"))
    for string, ids in zip(FIXED, answer(folder, f"{name}.encoded.json")):
        assert theirs.decode(ids) == string


def test_the_end_token_is_special_and_last(folder):
    for name in NAMES:
        theirs = tokenizers.Tokenizer.from_file(str(folder / f"{name}.json"))
        assert theirs.token_to_id("<|end|>") == theirs.get_vocab_size() - 1
        assert theirs.decode([theirs.token_to_id("<|end|>")]) == ""


def test_transformers_loads_it(folder):
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "bpe.json"), eos_token="<|end|>")
    strings = answer(folder, "all_strings.json")
    ours = answer(folder, "bpe.encoded.json")
    for string, ids in list(zip(strings, ours))[:200]:
        assert fast(string)["input_ids"] == ids
