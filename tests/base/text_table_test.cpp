#include "collegium/base/text_table.h"

#include <doctest/doctest.h>

#include <stdexcept>

using namespace collegium;

TEST_CASE("widths are counted in terminal cells") {
  CHECK(display_width("") == 0);
  CHECK(display_width("router") == 6);
  CHECK(display_width("café") == 4);
  CHECK(display_width("cafe\u0301") == 4);  // the accent as a letter of its own
  CHECK(display_width("専門家") == 6);
  CHECK(display_width("한국") == 4);
  CHECK(display_width("🙂") == 2);
  CHECK(display_width("▁▂▃") == 3);
  CHECK(display_width("\x1b[1;31mred\x1b[0m") == 3);
  CHECK(display_width("\xff\xfe") == 2);
  CHECK(display_width("\xe5\xb0") == 2);  // a character cut in half
}

TEST_CASE("shortening keeps whole characters and says that it cut") {
  CHECK(shorten("router", 6) == "router");
  CHECK(shorten("router", 5) == "rout…");
  CHECK(shorten("専門家", 5) == "専門…");
  CHECK(shorten("専門家", 4) == "専…");
  CHECK(shorten("router", 2, "...") == "ro");
  CHECK(shorten("router", 0) == "");
}

TEST_CASE("words wrap at spaces and long words are cut") {
  CHECK(wrap_words("one two three", 7) == std::vector<std::string>{"one two", "three"});
  CHECK(wrap_words("abcdefgh ij", 3) == std::vector<std::string>{"abc", "def", "gh", "ij"});
  CHECK(wrap_words("専門家", 1) == std::vector<std::string>{"専", "門", "家"});
  CHECK(wrap_words("", 10) == std::vector<std::string>{""});
  CHECK(wrap_words("   ", 10) == std::vector<std::string>{""});
}

TEST_CASE("numbers are told from names") {
  for (const auto* yes : {"0", "-3.5e-4", "1,024", "98%", "98 %", "1.5x", "3.2 GiB", "+.5", "12.3k", "1e6", "3 tok/s"})
    CHECK_MESSAGE(looks_numeric(yes), yes);
  for (const auto* no : {"", "-", "e5", "top_k", "2026-11-23", "1.5x bigger", "3 experts", "v2", "+"})
    CHECK_MESSAGE(!looks_numeric(no), no);
}

TEST_CASE("a table aligns text left and numbers right and leaves no spaces at line ends") {
  TextTable t({"name", "loss", "note"});
  t.row({"switch", "2.31", ""});
  t.row({"専門家", "12.5", "best"});
  t.row({"gap"});
  CHECK(t.n_rows() == 3);
  CHECK(t.render() ==
        "name    loss  note\n"
        "──────  ────  ────\n"
        "switch  2.31\n"
        "専門家  12.5  best\n"
        "gap\n");
  CHECK(t.render({.unicode = false}).find("------  ----  ----\n") != std::string::npos);
  CHECK(t.render({.color = true}).find("\x1b[1mname\x1b[0m") == 0);
}

TEST_CASE("numbers with a fixed number of digits") {
  CHECK(fixed_text(2.346, 2) == "2.35");
  CHECK(fixed_text(-0.5, 3) == "-0.500");
  CHECK(fixed_text(1234567.0, 0) == "1234567");
  CHECK(significant_text(2.345, 2) == "2.3");
  CHECK(significant_text(2.0, 5) == "2");
  CHECK(significant_text(0.000123456, 3) == "0.000123");
}

TEST_CASE("a column's alignment can be set") {
  TextTable t({"id", "name"});
  t.row({"7", "a"});
  t.row({"12", "bcd"});
  t.align(0, Align::left);
  t.align(1, Align::right);
  CHECK(t.render() ==
        "id  name\n"
        "──  ────\n"
        "7      a\n"
        "12   bcd\n");
  CHECK_THROWS_AS(t.align(2, Align::left), std::logic_error);
  CHECK_THROWS_AS(t.row({"1", "2", "3"}), std::logic_error);
}

TEST_CASE("a table fits a width by wrapping its widest text") {
  TextTable t({"name", "paper", "summary"});
  t.row({"switch", "12", "each token goes to the one expert that scores it highest"});
  const auto narrow = t.render({.width = 40});
  CHECK(narrow ==
        "name    paper  summary\n"
        "──────  ─────  ─────────────────────────\n"
        "switch     12  each token goes to the\n"
        "               one expert that scores it\n"
        "               highest\n");
  // Numbers are never wrapped, and a width too small for anything still ends.
  CHECK(t.render({.width = 1}).find("switch     12  each token") != std::string::npos);
}
