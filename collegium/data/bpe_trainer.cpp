#include "collegium/data/bpe_trainer.h"

#include <algorithm>
#include <queue>
#include <string>
#include <unordered_map>

#include "collegium/base/error.h"
#include "collegium/data/pretokenizer.h"
#include "collegium/data/tokenizer_model.h"
#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

// Scripts without spaces make pieces of thousands of bytes, each merge of which would cost their whole length; for
// counting pairs they are cut.
constexpr size_t kLongestCountedWord = 256;

struct BpeWord {
  std::vector<int32_t> symbols;
  int64_t count;
};

struct BpePair {
  int64_t count = 0;
  std::vector<int32_t> words;  // where it was ever seen; may hold words that lost it, and repeat
};

struct BpeCandidate {
  int64_t count;
  uint64_t key;  // left id, then right id
  bool operator<(const BpeCandidate& other) const {
    return count != other.count ? count < other.count : key > other.key;
  }
};

std::vector<BpeWord> count_words(std::span<const std::string_view> texts) {
  std::unordered_map<std::string_view, int64_t> counts;
  const Pretokenizer pretokenizer;
  for (const auto text : texts)
    pretokenizer.split(text, [&](std::string_view piece) {
      while (piece.size() > kLongestCountedWord) {
        const auto cut = std::max<size_t>(utf8_floor(piece, kLongestCountedWord), 1);
        ++counts[piece.substr(0, cut)];
        piece.remove_prefix(cut);
      }
      if (piece.size() > 1) ++counts[piece];
    });
  std::vector<std::pair<std::string_view, int64_t>> sorted(counts.begin(), counts.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<BpeWord> words;
  words.reserve(sorted.size());
  for (const auto& [piece, count] : sorted) {
    BpeWord word{.count = count};
    for (const char byte : piece) word.symbols.push_back(static_cast<unsigned char>(byte));
    words.push_back(std::move(word));
  }
  return words;
}

class BpeTrainer {
 public:
  explicit BpeTrainer(std::vector<BpeWord> words) : words_(std::move(words)) {
    for (int32_t byte = 0; byte < 256; ++byte) id_for(std::string(1, static_cast<char>(byte)));
    for (size_t w = 0; w < words_.size(); ++w) {
      const auto& symbols = words_[w].symbols;
      for (size_t i = 0; i + 1 < symbols.size(); ++i)
        pairs_[pair_key(symbols[i], symbols[i + 1])].words.push_back(static_cast<int32_t>(w));
      change_counts(static_cast<int32_t>(w), 1);
    }
    apply_changes();
  }

  // Merges the best pair; false when none occurs twice.
  bool merge_best() {
    while (!heap_.empty()) {
      const auto best = heap_.top();
      heap_.pop();
      auto& pair = pairs_[best.key];
      if (pair.count != best.count) {
        // Counts that fell are corrected here; counts that rose were pushed when they rose.
        if (pair.count > 0 && pair.count < best.count) heap_.push({pair.count, best.key});
        continue;
      }
      if (best.count < 2) return false;
      const Merge merge{static_cast<int32_t>(best.key >> 32), static_cast<int32_t>(best.key & 0xffffffffU)};
      merges_.push_back(merge);
      const auto id = id_for(bytes_of_[static_cast<size_t>(merge.left)] + bytes_of_[static_cast<size_t>(merge.right)]);
      auto touched = std::move(pair.words);
      pair.words.clear();
      std::sort(touched.begin(), touched.end());
      touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
      for (const auto w : touched) merge_in_word(w, merge, id);
      apply_changes();
      return true;
    }
    return false;
  }

  const std::vector<Merge>& merges() const { return merges_; }
  int64_t n_ids() const { return static_cast<int64_t>(bytes_of_.size()); }

 private:
  // "a" + "bc" and "ab" + "c" are one token.
  int32_t id_for(const std::string& bytes) {
    const auto [found, is_new] = id_of_.try_emplace(bytes, static_cast<int32_t>(bytes_of_.size()));
    if (is_new) bytes_of_.push_back(bytes);
    return found->second;
  }

  void merge_in_word(int32_t w, Merge merge, int32_t id) {
    auto& symbols = words_[static_cast<size_t>(w)].symbols;
    const auto is_here = [&](size_t i) {
      return i + 1 < symbols.size() && symbols[i] == merge.left && symbols[i + 1] == merge.right;
    };
    size_t first = 0;
    while (first + 1 < symbols.size() && !is_here(first)) ++first;
    if (!is_here(first)) return;
    change_counts(w, -1);
    size_t out = 0;
    for (size_t i = 0; i < symbols.size(); ++out) {
      const bool merges_here = is_here(i);
      symbols[out] = merges_here ? id : symbols[i];
      i += merges_here ? 2 : 1;
    }
    symbols.resize(out);
    list_new_pairs(w, id);
    change_counts(w, 1);
  }

  void change_counts(int32_t w, int64_t sign) {
    const auto& word = words_[static_cast<size_t>(w)];
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i)
      changes_[pair_key(word.symbols[i], word.symbols[i + 1])] += sign * word.count;
  }

  void list_new_pairs(int32_t w, int32_t id) {
    const auto& symbols = words_[static_cast<size_t>(w)].symbols;
    for (size_t i = 0; i + 1 < symbols.size(); ++i)
      if (symbols[i] == id || symbols[i + 1] == id) pairs_[pair_key(symbols[i], symbols[i + 1])].words.push_back(w);
  }

  void apply_changes() {
    for (const auto& [key, change] : changes_) {
      if (change == 0) continue;
      auto& pair = pairs_[key];
      pair.count += change;
      if (change > 0) heap_.push({pair.count, key});
    }
    changes_.clear();
  }

  std::vector<BpeWord> words_;
  std::vector<Merge> merges_;
  std::vector<std::string> bytes_of_;
  std::unordered_map<std::string, int32_t> id_of_;
  std::unordered_map<uint64_t, BpePair> pairs_;
  std::unordered_map<uint64_t, int64_t> changes_;
  std::priority_queue<BpeCandidate> heap_;
};

}  // namespace

Tokenizer train_bpe(std::span<const std::string_view> texts, int64_t vocab_size, const OnProgress& progress) {
  require(vocab_size >= 257, "tokenizer: vocab_size must be at least 257 (256 bytes and the end token), got ",
          vocab_size);
  BpeTrainer trainer(count_words(texts));
  const auto wanted = vocab_size - 1;
  while (trainer.n_ids() < wanted && trainer.merge_best())
    if (progress && trainer.n_ids() % 64 == 0)
      progress({.stage = "tokenizer", .done = trainer.n_ids(), .total = wanted});
  if (progress) progress({.stage = "tokenizer", .done = wanted, .total = wanted});
  return Tokenizer::of_merges(trainer.merges());
}

}  // namespace collegium::data
