#include "collegium/data/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "collegium/base/error.h"
#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

// \s is written out: PCRE2's own also has U+180E, which Unicode no longer counts as white space.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

std::string gpt2_expression() {
  return text(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)", kSpace, R"(\p{L}\p{N}]+|[)", kSpace, "]+(?![^",
              kSpace, "])|[", kSpace, "]+");
}

}  // namespace

struct Pretokenizer::Code {
  pcre2_code* compiled = nullptr;
  Code() {
    const auto expression = gpt2_expression();
    int error = 0;
    PCRE2_SIZE offset = 0;
    compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), PCRE2_UTF | PCRE2_UCP,
                             &error, &offset, nullptr);
    ensure(compiled != nullptr, "the pre-tokenising expression fails at ", offset);
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // without it matching is slower and otherwise equal
  }
  ~Code() { pcre2_code_free(compiled); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  // `text` is UTF-8, as PCRE2_NO_UTF_CHECK promises.
  void split(std::string_view text, const std::function<void(std::string_view)>& piece) const {
    const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
        pcre2_match_data_create_from_pattern(compiled, nullptr), &pcre2_match_data_free);
    for (size_t at = 0; at < text.size();) {
      const int count = pcre2_match(compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                    PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, match.get(), nullptr);
      ensure(count > 0, "the pre-tokenising expression stops at offset ", at, " with code ", count);
      const auto end = pcre2_get_ovector_pointer(match.get())[1];
      piece(text.substr(at, end - at));
      at = end;
    }
  }
};

Pretokenizer::Pretokenizer() : code_(std::make_shared<Code>()) {}

void Pretokenizer::split(std::string_view text, const std::function<void(std::string_view)>& piece) const {
  while (!text.empty()) {
    const auto fault = utf8_fault(text);
    if (!fault) return code_->split(text, piece);
    code_->split(text.substr(0, *fault), piece);
    const auto length = utf8_step(text.substr(*fault)).length;
    piece(text.substr(*fault, length));
    text.remove_prefix(*fault + length);
  }
}

}  // namespace collegium::data
