#include "collegium/io/json.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>

#include "collegium/base/random.h"
#include "tests/io/caught.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;
using nlohmann::json;

TEST_CASE("configuration values go to JSON and back unchanged") {
  const double inf = std::numeric_limits<double>::infinity();
  const auto original = table({{"on", true},
                               {"k", int64_t{-3}},
                               {"whole", 2.0},
                               {"rate", 0.1},
                               {"limit", inf},
                               {"below", -inf},
                               {"word", "inf"},
                               {"largest", std::numeric_limits<int64_t>::max()},
                               {"list", List{1, 2.5, "x", List{}}},
                               {"inner", table({{"empty", Table{}}, {"é\n\"", "ü"}})}});
  const auto back = from_json(parse_json(dump_json(to_json(Value(original))), "test"));
  CHECK(std::get<Table>(back.data) == original);
  CHECK(std::isnan(std::get<double>(from_json(to_json(Value(std::nan("")))).data)));
  CHECK(std::get<double>(from_json(json(1.0)).data) == 1.0);
}

TEST_CASE("JSON that is no configuration is refused") {
  CHECK(caught([] { from_json(json()); }).message == "JSON null has no place in a configuration");
  CHECK(caught([] { from_json(json(std::numeric_limits<uint64_t>::max())); }).has("beyond 64 bits"));
  json deep = 1;
  for (int i = 0; i < 100; ++i) deep = json::array({deep});
  CHECK(caught([&] { from_json(deep); }).has("deeper than 64"));
}

TEST_CASE("doubles read back bitwise equal") {
  const Random random(7);
  int64_t checked = 0;
  for (uint64_t i = 0; i < 20'000; ++i) {
    const auto value = std::bit_cast<double>(random.bits(i));
    if (!std::isfinite(value)) continue;
    const auto back = parse_json(dump_json(json(value)), "test").get<double>();
    if (std::bit_cast<uint64_t>(back) != std::bit_cast<uint64_t>(value)) FAIL_CHECK("differs: ", value);
    ++checked;
  }
  CHECK(checked > 19'000);
  for (const double value : {0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e22, 123456789012345678.0}) {
    const auto back = parse_json(dump_json(json(value)), "test");
    CHECK(back.is_number_float());
    CHECK(std::bit_cast<uint64_t>(back.get<double>()) == std::bit_cast<uint64_t>(value));
  }
}

TEST_CASE("numbers that are not finite are written as text and read as numbers") {
  const double inf = std::numeric_limits<double>::infinity();
  const json row = {{"loss", std::nan("")}, {"best", {inf, -inf, 1.5}}};
  const auto written = dump_json(row);
  CHECK(written == R"({"best":["inf","-inf",1.5],"loss":"nan"})");
  const auto back = parse_json(written, "test");
  CHECK(std::isnan(number_from(back["loss"])));
  CHECK(number_from(back["best"][0]) == inf);
  CHECK(number_from(back["best"][1]) == -inf);
  CHECK(number_from(back["best"][2]) == 1.5);
  CHECK(caught([] { number_from(json("many")); }).message == "wanted a number, got \"many\"");
}

TEST_CASE("strict reading refuses what the library lets pass") {
  CHECK(parse_document(R"({"b":{"z":1,"y":2},"a":[{"b":1}]})", "x").keys == std::vector<std::string>{"b", "a"});
  CHECK(caught([] { parse_json(R"({"a":1,"a":2})", "f.json"); }).message == "f.json: the key 'a' is there twice");
  CHECK(caught([] { parse_json(R"([{"b":{"a":1,"a":2}}])", "f.json"); }).has("'a' is there twice"));
  CHECK(caught([] { parse_json(std::string_view("{}\0rest", 7), "f.json"); }).message ==
        "f.json: JSON text has a zero byte at byte 2");
  const auto broken = caught([] { parse_json("{\"a\":1,}", "f.json"); });
  CHECK(broken.kind == ErrorKind::data);
  CHECK(broken.has("f.json: not JSON: parse error at line 1, column 8"));
  CHECK(caught([] { parse_json("{} x", "f.json"); }).has("not JSON"));
  CHECK(caught([] { parse_json("", "f.json"); }).has("not JSON"));
  CHECK(caught([] { parse_json("\"\xff\"", "f.json"); }).has("not JSON"));
  CHECK(caught([] { parse_json("1e999", "f.json"); }).kind == ErrorKind::data);
  CHECK(caught([] { dump_json(json("\xff")); }).kind == ErrorKind::usage);
}

TEST_CASE("messages show text of files without control characters, broken UTF-8 or endless length") {
  CHECK(printable("plain ü €") == "plain ü €");
  CHECK(printable("a\x1b[2J\n") == "a?[2J?");
  CHECK(printable("\x7f\xff\xc3") == "???");
  CHECK(printable("\xc2\x9b\xed\xa0\x80\xc0\x80") == "???????");
  CHECK(printable("üüü", 5) == "üü...");
  CHECK(printable(std::string(120, 'x')) == std::string(120, 'x'));
  CHECK(caught([] { parse_json("\"" + std::string(1'000'000, 'x') + "\xb0", "f.json"); }).message.size() < 300);
  const auto broken = caught([] { parse_json("{\"\xb0", "f.json"); }).message;
  CHECK(dump_json(json(broken)).find("f.json") != std::string::npos);
}

TEST_CASE("many objects in one are read in time that grows with their number, not its square") {
  std::string many = "{";  // takes minutes when each object looks at all those before it
  for (int i = 0; i < 300'000; ++i) many += (i ? ",\"" : "\"") + std::to_string(i) + "\":{\"a\":[]}";
  CHECK(parse_document(many + "}", "x").keys.size() == 300'000);
}

TEST_CASE("limits stop deep and long documents early") {
  CHECK(parse_json("[[1]]", "x", {.depth = 2}).size() == 1);
  CHECK(caught([] { parse_json("[[[1]]]", "x", {.depth = 2}); }).message == "x: JSON nested deeper than 2 levels");
  CHECK(caught([] { parse_json(std::string(5'000'000, '['), "x"); }).has("deeper than 64"));
  CHECK(parse_json("[[1,2],[3,4]]", "x", {.list_elements = 2}).size() == 2);
  CHECK(caught([] { parse_json("[1,2,3]", "x", {.list_elements = 2}); }).message ==
        "x: a JSON list has more than 2 elements");
  CHECK(caught([] { parse_json("[[],[],[]]", "x", {.list_elements = 2}); }).has("more than 2"));
}
