#include "collegium/data/tokenizer.h"

#include <algorithm>
#include <map>
#include <thread>

#include "collegium/base/random.h"
#include "collegium/data/bpe_trainer.h"
#include "collegium/data/pretokenizer.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

const std::string kSample =
    "The quick brown fox, it's said, wouldn't jump over 123 lazy dogs.\n\n  Na\xc3\xafve caf\xc3\xa9s: "
    "\xe4\xb8\x96\xe7\x95\x8c\xe4\xba\xba\xe6\x9d\x83 \xd8\xa7\xd9\x84\xd8\xad\xd9\x82 the the the quick quick fox\n";

std::vector<std::string> pieces_of(std::string_view text) {
  std::vector<std::string> out;
  Pretokenizer().split(text, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

Tokenizer trained(int64_t vocab_size, std::string_view sample = kSample) {
  return train_bpe(std::span(&sample, 1), vocab_size);
}

// Random bytes, half of the time of the kinds that a text has.
std::string noise(uint64_t seed, int64_t n) {
  const Random random(seed);
  std::string out;
  for (int64_t i = 0; i < n; ++i) {
    const auto bits = random.bits(static_cast<uint64_t>(i));
    out += bits & 1 ? static_cast<char>(bits >> 8) : "the quick's\n 12"[(bits >> 8) % 15];
  }
  return out;
}

// The plain form of BPE training: recount every pair before each merge.
std::vector<std::pair<std::string, std::string>> merges_by_recounting(std::string_view sample, int64_t vocab_size) {
  std::vector<std::vector<std::string>> words;
  for (const auto& piece : pieces_of(sample)) {
    words.emplace_back();
    for (const char byte : piece) words.back().emplace_back(1, byte);
  }
  std::map<std::string, int64_t> id_of;
  for (int byte = 0; byte < 256; ++byte) id_of[std::string(1, static_cast<char>(byte))] = byte;
  std::vector<std::pair<std::string, std::string>> merges;
  while (static_cast<int64_t>(id_of.size()) < vocab_size - 1) {
    std::map<std::pair<int64_t, int64_t>, std::pair<int64_t, std::pair<std::string, std::string>>> counts;
    for (const auto& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        auto& entry = counts[{id_of[word[i]], id_of[word[i + 1]]}];
        entry.first++;
        entry.second = {word[i], word[i + 1]};
      }
    int64_t best = 1;
    std::pair<std::string, std::string> pair;
    for (const auto& [key, entry] : counts)  // in the order of the ids, so ties go to the lowest
      if (entry.first > best) best = entry.first, pair = entry.second;
    if (best < 2) break;
    merges.push_back(pair);
    id_of.try_emplace(pair.first + pair.second, static_cast<int64_t>(id_of.size()));
    for (auto& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i)
        if (word[i] == pair.first && word[i + 1] == pair.second) {
          word[i] += word[i + 1];
          word.erase(word.begin() + static_cast<int64_t>(i) + 1);
        }
  }
  return merges;
}

}  // namespace

TEST_CASE("pieces are those of GPT-2's expression") {
  CHECK(pieces_of("Hello world") == std::vector<std::string>{"Hello", " world"});
  CHECK(pieces_of("it's we'll I'D") == std::vector<std::string>{"it", "'s", " we", "'ll", " I", "'", "D"});
  CHECK(pieces_of("a  b\n\nc ") == std::vector<std::string>{"a", " ", " b", "\n", "\n", "c", " "});
  CHECK(pieces_of("x12 34!?") == std::vector<std::string>{"x", "12", " 34", "!?"});
  CHECK(pieces_of("\xe4\xb8\x96\xe7\x95\x8c\xe3\x80\x82") ==
        std::vector<std::string>{"\xe4\xb8\x96\xe7\x95\x8c", "\xe3\x80\x82"});
  // U+0085 and U+3000 are white space, U+180E is not.
  CHECK(pieces_of("a\xc2\x85\xe3\x80\x80"
                  "b") == std::vector<std::string>{"a", "\xc2\x85", "\xe3\x80\x80", "b"});
  CHECK(pieces_of("!\xe1\xa0\x8e!") == std::vector<std::string>{"!\xe1\xa0\x8e!"});
}

TEST_CASE("pieces are the text again, whatever the bytes") {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto text = noise(seed, 300);
    std::string joined;
    for (const auto& piece : pieces_of(text)) joined += piece;
    CHECK(joined == text);
  }
}

TEST_CASE("the byte tokenizer") {
  const auto tokenizer = Tokenizer::of_bytes();
  CHECK(tokenizer.kind() == "byte");
  CHECK(tokenizer.vocab_size() == 257);
  CHECK(tokenizer.end_id() == 256);
  CHECK(tokenizer.encode("A\xc3\xa9") == std::vector<int32_t>{0x41, 0xc3, 0xa9});
  CHECK(tokenizer.token_bytes(0x41) == "A");
  CHECK(tokenizer.token_bytes(256).empty());
}

TEST_CASE("training merges the most frequent pair first, ties by id") {
  // "abab": ab twice, ba once.
  const auto tokenizer = trained(258, "abab");
  CHECK(tokenizer.vocab_size() == 258);
  CHECK(tokenizer.token_bytes(256) == "ab");
  CHECK(tokenizer.encode("abba") == std::vector<int32_t>{256, 'b', 'a'});
  // yz and ab both occur twice: the lower left id wins.
  CHECK(trained(258, "yz ab yz ab").token_bytes(256) == " a");  // " a", "ab", "yz": twice each
}

TEST_CASE("fast training equals recounting") {
  std::string sample = kSample + kSample + "abcabc bcab abc abcd bcd cd d aaaa aaa aaaaa";
  const auto tokenizer = trained(400, sample);
  const auto merges = merges_by_recounting(sample, 400);
  REQUIRE(merges.size() > 40);
  std::vector<std::string> plain, fast;
  for (const auto& [left, right] : merges)
    if (std::find(plain.begin(), plain.end(), left + right) == plain.end()) plain.push_back(left + right);
  for (int32_t id = 256; id < tokenizer.end_id(); ++id) fast.emplace_back(tokenizer.token_bytes(id));
  CHECK(fast == plain);
}

TEST_CASE("training stops when no pair is left, and reports progress") {
  const auto tokenizer = trained(5000);
  CHECK(tokenizer.vocab_size() < 5000);
  CHECK(tokenizer.end_id() == tokenizer.vocab_size() - 1);
  const std::string_view sample = kSample;
  int64_t last = 0, total = 0;
  train_bpe(std::span(&sample, 1), 280, [&](const DataProgress& p) { last = p.done, total = p.total; });
  CHECK(last == 279);
  CHECK(total == 279);
  CHECK(error_of([] { trained(256); }) ==
        "2: tokenizer: vocab_size must be at least 257 (256 bytes and the end token), got 256");
}

TEST_CASE("what is encoded decodes to the same bytes") {
  for (const auto& tokenizer : {Tokenizer::of_bytes(), trained(300), trained(5000)})
    for (uint64_t seed = 0; seed < 100; ++seed) {
      const auto text = noise(seed, 400);
      CHECK(tokenizer.decode_bytes(tokenizer.encode(text)) == text);
    }
}

TEST_CASE("long pieces and the cache give the same ids") {
  const auto tokenizer = trained(5000);
  const std::string word = "quickquickthefox";
  std::string line;
  for (int i = 0; i < 200; ++i) line += word;
  const auto once = tokenizer.encode(word), again = tokenizer.encode(word);
  CHECK(once == again);
  CHECK(tokenizer.decode_bytes(tokenizer.encode(line)) == line);
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = tokenizer.encode(kSample); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == tokenizer.encode(kSample));
}

TEST_CASE("no text makes an end token") {
  for (const auto& tokenizer : {Tokenizer::of_bytes(), trained(5000, "<|end|> <|end|> <|end|>")}) {
    const auto ids = tokenizer.encode("a<|end|>b <|end|>");
    CHECK(std::count(ids.begin(), ids.end(), tokenizer.end_id()) == 0);
    CHECK(tokenizer.decode(ids) == "a<|end|>b <|end|>");
  }
}

TEST_CASE("save and load keep ids and text; equal tokenizers save equal files") {
  const Scratch scratch;
  for (const auto& tokenizer : {Tokenizer::of_bytes(), trained(300), trained(5000)}) {
    tokenizer.save(scratch.path() / "tokenizer.json");
    const auto loaded = Tokenizer::load(scratch.path() / "tokenizer.json");
    CHECK(loaded.kind() == tokenizer.kind());
    CHECK(loaded.vocab_size() == tokenizer.vocab_size());
    CHECK(loaded.end_id() == tokenizer.end_id());
    CHECK(loaded.byte_lengths() == tokenizer.byte_lengths());
    CHECK(loaded.to_json() == tokenizer.to_json());
    for (uint64_t seed = 0; seed < 20; ++seed)
      CHECK(loaded.encode(noise(seed, 300)) == tokenizer.encode(noise(seed, 300)));
    CHECK(loaded.encode(kSample) == tokenizer.encode(kSample));
  }
  CHECK(trained(5000).to_json() == trained(5000).to_json());
}

TEST_CASE("a stream shows whole characters only") {
  StreamDecoder stream(Tokenizer::of_bytes());
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xe2) == "");
  CHECK(stream.push(0x82) == "");
  CHECK(stream.push(0xac) == "\xe2\x82\xac");
  CHECK(stream.push(0xf0) == "");
  CHECK(stream.push('x') == "\xef\xbf\xbdx");  // the character cannot be finished any more
  CHECK(stream.push(0xc3) == "");
  CHECK(stream.push(256) == "");
  CHECK(stream.finish() == "\xef\xbf\xbd");
  CHECK(stream.finish() == "");
}

TEST_CASE("streaming equals decoding at once") {
  const auto tokenizer = trained(300);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const auto ids = tokenizer.encode(noise(seed, 200));
    StreamDecoder stream(tokenizer);
    std::string joined;
    for (const auto id : ids) joined += stream.push(id);
    CHECK(joined + stream.finish() == tokenizer.decode(ids));
  }
}

TEST_CASE("an id outside the vocabulary is refused") {
  const std::vector<int32_t> ids = {65, 300};
  CHECK(error_of([&] { Tokenizer::of_bytes().decode(ids); }) ==
        "2: tokenizer: id 300 is outside the vocabulary of 257");
}

TEST_CASE("files that are no byte-level BPE are refused by name") {
  const std::string hint = " [byte-level BPE files without a normalizer can be read]";
  const auto parse = [](const std::string& json) { return error_of([&] { Tokenizer::parse(json, "t.json"); }); };
  CHECK(parse("{").starts_with("4: t.json: not a tokenizer.json: "));
  CHECK(parse("[]") == "4: t.json: 'pre_tokenizer' is missing" + hint);
  CHECK(parse("{}") == "4: t.json: 'pre_tokenizer' is missing" + hint);
  auto changed = [&](const std::string& from, const std::string& to) {
    auto json = trained(300).to_json();
    const auto at = json.find(from);
    REQUIRE(at != std::string::npos);
    return parse(json.replace(at, from.size(), to));
  };
  CHECK(changed("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}") ==
        "4: t.json: a normalizer is not supported" + hint);
  CHECK(changed("\"type\": \"BPE\"", "\"type\": \"Unigram\"") ==
        "4: t.json: the model 'Unigram' is not supported" + hint);
  CHECK(changed("\"dropout\": null", "\"dropout\": 0.1") == "4: t.json: the model's 'dropout' is not supported" + hint);
  CHECK(changed("\"content\": \"<|end|>\"", "\"content\": \"<s>\"") ==
        "4: t.json: there is no end token (<|end|> or <|endoftext|>)" + hint);
  CHECK(changed("\"A\": 65", "\"A\": 66") == "4: t.json: id 66 stands for two tokens" + hint);
  CHECK(changed("\"A\": 65", "\"A\": 6500") == "4: t.json: the ids have gaps: id 6500" + hint);
  CHECK(changed("\"A\": 65", "\"\xe4\xb8\x96\": 65") ==
        "4: t.json: the token '\xe4\xb8\x96' is not in the byte-level alphabet" + hint);
  CHECK(changed("\"merges\": [", "\"merges\": [\"nospace\",") ==
        "4: t.json: a merge is not two tokens: \"nospace\"" + hint);
  CHECK(changed("\"merges\": [", "\"merges\": [[\"zzz\", \"a\"],") ==
        "4: t.json: a merge uses 'zzz', which is not in the vocabulary" + hint);
}
