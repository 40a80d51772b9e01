// What a Tokenizer consists of. Only the files of the tokenizer include this.
#pragma once
#include <array>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "collegium/data/pretokenizer.h"
#include "collegium/data/tokenizer.h"

namespace collegium::data {

inline uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

struct Tokenizer::Model {
  struct Merged {
    int32_t rank, id;
  };
  std::vector<std::string> bytes_of;  // by id; the end token's is empty
  std::array<int32_t, 256> id_of_byte{};
  std::vector<Merge> merges;                    // by rank
  std::unordered_map<uint64_t, Merged> merged;  // pair_key to what the pair becomes
  int32_t end_id = 0;
  std::string end_text{kEndToken};
  bool splits_pieces = true;  // pre-tokenises by GPT-2's expression
  Pretokenizer pretokenizer;

  void encode_piece(std::string_view piece, std::vector<int32_t>& out) const;
  void encode_cached(std::string_view piece, std::vector<int32_t>& out) const;

 private:
  struct PieceHash {
    using is_transparent = void;
    size_t operator()(std::string_view piece) const { return std::hash<std::string_view>{}(piece); }
  };
  // Pieces seen before. A cache only: results do not depend on it.
  mutable std::mutex cache_mutex;
  mutable std::unordered_map<std::string, std::vector<int32_t>, PieceHash, std::equal_to<>> cache;
};

}  // namespace collegium::data
