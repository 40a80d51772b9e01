#include "collegium/data/tokenizer.h"

#include <queue>

#include "collegium/base/error.h"
#include "collegium/data/tokenizer_model.h"
#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

constexpr size_t kLongestCachedPiece = 64;
constexpr size_t kMostCachedPieces = size_t{1} << 16;

struct MergeCandidate {
  int32_t rank;
  int32_t at;  // index of the left symbol
  int32_t id;
  uint64_t key;
  // Lowest rank first, then leftmost.
  bool operator<(const MergeCandidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
};

}  // namespace

void Tokenizer::Model::encode_piece(std::string_view piece, std::vector<int32_t>& out) const {
  const auto n = static_cast<int32_t>(piece.size());
  std::vector<int32_t> id(piece.size()), next(piece.size()), previous(piece.size());
  for (int32_t i = 0; i < n; ++i) {
    id[static_cast<size_t>(i)] = id_of_byte[static_cast<unsigned char>(piece[static_cast<size_t>(i)])];
    next[static_cast<size_t>(i)] = i + 1;
    previous[static_cast<size_t>(i)] = i - 1;
  }
  const auto at = [](auto& list, int32_t i) -> auto& { return list[static_cast<size_t>(i)]; };

  std::priority_queue<MergeCandidate> candidates;
  const auto consider = [&](int32_t left) {
    if (left < 0 || at(next, left) >= n) return;
    const auto key = pair_key(at(id, left), at(id, at(next, left)));
    if (const auto found = merged.find(key); found != merged.end())
      candidates.push({found->second.rank, left, found->second.id, key});
  };
  if (!merges.empty())
    for (int32_t i = 0; i + 1 < n; ++i) consider(i);

  while (!candidates.empty()) {
    const auto candidate = candidates.top();
    candidates.pop();
    const auto left = candidate.at;
    // A symbol that was merged away has id -1, so a candidate about it, or about another pair, is out of date.
    if (at(id, left) < 0 || at(next, left) >= n) continue;
    const auto right = at(next, left);
    if (pair_key(at(id, left), at(id, right)) != candidate.key) continue;
    at(id, left) = candidate.id;
    at(id, right) = -1;
    at(next, left) = at(next, right);
    if (at(next, left) < n) at(previous, at(next, left)) = left;
    consider(at(previous, left));
    consider(left);
  }
  for (int32_t i = 0; i < n; i = at(next, i)) out.push_back(at(id, i));
}

void Tokenizer::Model::encode_cached(std::string_view piece, std::vector<int32_t>& out) const {
  if (piece.size() > kLongestCachedPiece) return encode_piece(piece, out);
  {
    const std::lock_guard lock(cache_mutex);
    if (const auto found = cache.find(piece); found != cache.end()) {
      out.insert(out.end(), found->second.begin(), found->second.end());
      return;
    }
  }
  std::vector<int32_t> ids;
  encode_piece(piece, ids);
  out.insert(out.end(), ids.begin(), ids.end());
  const std::lock_guard lock(cache_mutex);
  if (cache.size() < kMostCachedPieces) cache.emplace(piece, std::move(ids));
}

Tokenizer Tokenizer::of_merges(std::span<const Merge> merges) {
  auto model = std::make_shared<Model>();
  std::unordered_map<std::string, int32_t> id_of;
  for (int32_t byte = 0; byte < 256; ++byte) {
    model->id_of_byte[static_cast<size_t>(byte)] = byte;
    model->bytes_of.emplace_back(1, static_cast<char>(byte));
    id_of[model->bytes_of.back()] = byte;
  }
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merges[rank];
    const auto n_ids = static_cast<int32_t>(model->bytes_of.size());
    ensure(left >= 0 && right >= 0 && left < n_ids && right < n_ids, "merge ", rank, " uses a later token");
    auto bytes = model->bytes_of[static_cast<size_t>(left)] + model->bytes_of[static_cast<size_t>(right)];
    const auto [found, is_new] = id_of.try_emplace(bytes, n_ids);
    if (is_new) model->bytes_of.push_back(std::move(bytes));
    const Model::Merged becomes{static_cast<int32_t>(rank), found->second};
    ensure(model->merged.try_emplace(pair_key(left, right), becomes).second, "merge ", rank, " repeats an earlier one");
  }
  model->merges.assign(merges.begin(), merges.end());
  model->splits_pieces = !merges.empty();
  model->end_id = static_cast<int32_t>(model->bytes_of.size());
  model->bytes_of.emplace_back();
  return Tokenizer(std::move(model));
}

Tokenizer Tokenizer::of_bytes() {
  return of_merges({});
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(model_->merges.empty() ? text.size() : text.size() / 3);
  if (model_->merges.empty()) {
    for (const char byte : text) ids.push_back(model_->id_of_byte[static_cast<unsigned char>(byte)]);
    return ids;
  }
  if (!model_->splits_pieces) {
    model_->encode_piece(text, ids);
    return ids;
  }
  model_->pretokenizer.split(text, [&](std::string_view piece) { model_->encode_cached(piece, ids); });
  return ids;
}

std::string Tokenizer::decode_bytes(std::span<const int32_t> ids) const {
  std::string out;
  for (const auto id : ids) out += token_bytes(id);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  return utf8_lossy(decode_bytes(ids));
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(model_->bytes_of.size());
}

int32_t Tokenizer::end_id() const {
  return model_->end_id;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  require(id >= 0 && id < vocab_size(), "tokenizer: id ", id, " is outside the vocabulary of ", vocab_size());
  return model_->bytes_of[static_cast<size_t>(id)];
}

std::vector<int32_t> Tokenizer::byte_lengths() const {
  std::vector<int32_t> lengths;
  for (const auto& bytes : model_->bytes_of) lengths.push_back(static_cast<int32_t>(bytes.size()));
  return lengths;
}

std::string_view Tokenizer::kind() const {
  return model_->merges.empty() ? "byte" : "bpe";
}

std::string StreamDecoder::push(int32_t id) {
  held_ += tokenizer_.token_bytes(id);
  size_t whole = 0;
  while (whole < held_.size()) {
    const auto step = utf8_step(std::string_view(held_).substr(whole));
    if (step.state == Utf8Step::State::incomplete) break;
    whole += step.length;
  }
  auto out = utf8_lossy(std::string_view(held_).substr(0, whole));
  held_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() {
  auto out = utf8_lossy(held_);
  held_.clear();
  return out;
}

}  // namespace collegium::data
