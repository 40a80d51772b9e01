// UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace collegium::data {

/// What the first bytes of a text are.
struct Utf8Step {
  enum class State {
    character,   ///< one whole character
    incomplete,  ///< the text ends inside a character that more bytes could finish
    invalid      ///< these bytes can never become a character
  };
  State state;
  size_t length;  ///< bytes taken, at least 1; for `invalid` the longest part that began a character
};

/// Looks at the beginning of `bytes`, which must not be empty.
Utf8Step utf8_step(std::string_view bytes);

/// Offset of the first byte that belongs to no character; nothing when all of `bytes` is UTF-8.
std::optional<size_t> utf8_fault(std::string_view bytes);

/// `bytes` with each wrong part replaced by U+FFFD.
std::string utf8_lossy(std::string_view bytes);

/// The UTF-8 form of `code_point`, or of U+FFFD when it is none.
std::string utf8_of(uint32_t code_point);

/// The largest offset at most `at` that starts a character (`text` is UTF-8).
size_t utf8_floor(std::string_view text, size_t at);

}  // namespace collegium::data
