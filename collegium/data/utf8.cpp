#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

struct Utf8Lead {
  size_t length = 0;                      // bytes of the whole character; 0 for a byte that starts none
  unsigned char low = 0x80, high = 0xbf;  // range of the second byte: rules out overlong forms and surrogates
};

Utf8Lead utf8_lead(unsigned char byte) {
  if (byte < 0x80) return {.length = 1};
  if (byte >= 0xc2 && byte <= 0xdf) return {.length = 2};
  if (byte == 0xe0) return {.length = 3, .low = 0xa0};
  if (byte == 0xed) return {.length = 3, .high = 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {.length = 3};
  if (byte == 0xf0) return {.length = 4, .low = 0x90};
  if (byte == 0xf4) return {.length = 4, .high = 0x8f};
  if (byte >= 0xf1 && byte <= 0xf3) return {.length = 4};
  return {};
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) {
  const auto lead = utf8_lead(static_cast<unsigned char>(bytes[0]));
  if (lead.length == 0) return {Utf8Step::State::invalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {Utf8Step::State::incomplete, i};
    const auto byte = static_cast<unsigned char>(bytes[i]);
    const auto low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xbf;
    if (byte < low || byte > high) return {Utf8Step::State::invalid, i};
  }
  return {Utf8Step::State::character, lead.length};
}

std::optional<size_t> utf8_fault(std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const auto step = utf8_step(bytes.substr(at));
    if (step.state != Utf8Step::State::character) return at;
    at += step.length;
  }
  return {};
}

std::string utf8_lossy(std::string_view bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const auto step = utf8_step(bytes.substr(at));
    out += step.state == Utf8Step::State::character ? bytes.substr(at, step.length) : kReplacement;
    at += step.length;
  }
  return out;
}

std::string utf8_of(uint32_t code_point) {
  const auto tail = [](uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3f)); };
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  if (code_point < 0x800) return {static_cast<char>(0xc0 | (code_point >> 6)), tail(code_point)};
  const bool is_surrogate = code_point >= 0xd800 && code_point <= 0xdfff;
  if (is_surrogate || code_point > 0x10ffff) return std::string(kReplacement);
  if (code_point < 0x10000)
    return {static_cast<char>(0xe0 | (code_point >> 12)), tail(code_point >> 6), tail(code_point)};
  return {static_cast<char>(0xf0 | (code_point >> 18)), tail(code_point >> 12), tail(code_point >> 6),
          tail(code_point)};
}

size_t utf8_floor(std::string_view text, size_t at) {
  if (at >= text.size()) return text.size();
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

}  // namespace collegium::data
