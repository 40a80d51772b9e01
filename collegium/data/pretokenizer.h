// Cutting text into the pieces inside which byte pairs are merged: the expression of GPT-2.
#pragma once
#include <functional>
#include <memory>
#include <string_view>

namespace collegium::data {

/// Contractions, letters, numbers and other marks with the space before them, and runs of white space, by
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` (Radford et al. 2019, released code).
/// Safe to share among threads.
class Pretokenizer {
 public:
  Pretokenizer();
  /// Calls `piece` for each piece in order; together they are `text`. Bytes that are not UTF-8 become pieces of
  /// their own.
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

}  // namespace collegium::data
