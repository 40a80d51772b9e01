#include "collegium/data/utf8.h"

#include <doctest/doctest.h>

using namespace collegium::data;
using State = Utf8Step::State;

TEST_CASE("every code point is written and read back; surrogates and beyond are replaced") {
  int64_t n_wrong = 0;
  for (uint32_t code_point = 1; code_point <= 0x10ffff; ++code_point) {
    if (code_point >= 0xd800 && code_point <= 0xdfff) continue;
    const auto bytes = utf8_of(code_point);
    const auto step = utf8_step(bytes);
    if (step.state != State::character || step.length != bytes.size()) ++n_wrong;
  }
  CHECK(n_wrong == 0);
  CHECK(utf8_of(0x20ac) == "\xe2\x82\xac");
  CHECK(utf8_of(0xd800) == "\xef\xbf\xbd");
  CHECK(utf8_of(0x110000) == "\xef\xbf\xbd");
}

TEST_CASE("wrong bytes are found where they are") {
  CHECK_FALSE(utf8_fault("").has_value());
  CHECK_FALSE(utf8_fault("caf\xc3\xa9 \xf0\x9f\x98\x80").has_value());
  CHECK(utf8_fault("ab\xff").value() == 2);
  CHECK(utf8_fault("ab\xc0\x80").value() == 2);        // overlong NUL
  CHECK(utf8_fault("\xe0\x9f\xbf").value() == 0);      // overlong
  CHECK(utf8_fault("x\xed\xa0\x80").value() == 1);     // surrogate
  CHECK(utf8_fault("\xf4\x90\x80\x80").value() == 0);  // above U+10FFFF
  CHECK(utf8_fault("caf\xc3").value() == 3);           // cut short
  CHECK(utf8_step("\xe2\x82").state == State::incomplete);
  CHECK(utf8_step("\xe2\x28").state == State::invalid);
}

TEST_CASE("each wrong part becomes one replacement character") {
  CHECK(utf8_lossy("a\xff\xfe"
                   "b") ==
        "a\xef\xbf\xbd\xef\xbf\xbd"
        "b");
  CHECK(utf8_lossy("\xf0\x9f\x98") == "\xef\xbf\xbd");  // one unfinished character, one mark
  CHECK(utf8_lossy("\xe2\x82"
                   "A") ==
        "\xef\xbf\xbd"
        "A");
  CHECK(utf8_lossy("\xed\xa0\x80") == "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a cut never lands inside a character") {
  const std::string_view text =
      "a\xe2\x82\xac"
      "b";
  CHECK(utf8_floor(text, 1) == 1);
  CHECK(utf8_floor(text, 2) == 1);
  CHECK(utf8_floor(text, 3) == 1);
  CHECK(utf8_floor(text, 4) == 4);
  CHECK(utf8_floor(text, 99) == 5);
}
