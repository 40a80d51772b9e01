#include "collegium/base/config.h"

#include <doctest/doctest.h>

#include <array>

using namespace collegium;

namespace {

enum class Priority { position, score };
constexpr std::array<std::string_view, 2> kPriorityNames = {"position", "score"};
std::span<const std::string_view> enum_names(Priority) {
  return kPriorityNames;
}

struct Inner {
  double rate = 0.5;
  void visit(Fields& field) { field("rate", rate, {.help = "how fast", .unit = "1/s", .min = 0, .max = 1}); }
};

struct Outer {
  int64_t k = 2;
  bool on = true;
  Priority priority = Priority::position;
  std::vector<int64_t> sizes = {1, 2};
  Inner inner;
  Named gate{.name = "score"};
  std::vector<Named> balancers;
  void visit(Fields& field) {
    field("k", k, {.help = "experts per token", .min = 1});
    field("on", on, {.help = "whether"});
    field("priority", priority, {.help = "who goes first"});
    field("sizes", sizes, {.help = "sizes"});
    field("inner", inner, {.help = "inner"});
    field("gate", gate, {.help = "gate", .catalogue = "gates"});
    field("balancers", balancers, {.help = "balancers", .catalogue = "balancers"});
  }
};

std::string error_of(const Table& from) {
  try {
    read_config<Outer>(from, "model");
  } catch (const Error& e) {
    CHECK(e.exit_code() == 2);
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a config writes and reads back equal") {
  Outer config;
  config.k = 7, config.priority = Priority::score, config.inner.rate = 0.25;
  config.balancers = {{.name = "bias", .fields = table({{"rate", 0.001}})}};
  const auto written = write_config(config);
  CHECK(write_config(read_config<Outer>(written)) == written);
  CHECK(std::get<std::string>(find_path(written, "priority")->data) == "score");
}

TEST_CASE("a wrong key, type or value is an error with its path and the nearest key") {
  CHECK(error_of(table({{"kk", 1}})) ==
        "model.kk: unknown key; did you mean 'k'? (known here: k, on, priority, sizes, inner, gate, balancers)");
  CHECK(error_of(table({{"k", "two"}})) == "model.k: must be an integer, got string \"two\"");
  CHECK(error_of(table({{"k", 0}})) == "model.k: must be at least 1, got 0");
  CHECK(error_of(table({{"k", 1.5}})) == "model.k: must be an integer, got float 1.5");
  CHECK(error_of(table({{"on", 1}})) == "model.on: must be a boolean, got integer 1");
  CHECK(error_of(table({{"priority", "scor"}})) ==
        "model.priority: 'scor' is not one of position, score; did you mean 'score'?");
  CHECK(error_of(table({{"inner", table({{"rate", 2}})}})) == "model.inner.rate: must be in [0, 1], got 2");
  CHECK(error_of(table({{"inner", table({{"rat", 2}})}})) ==
        "model.inner.rat: unknown key; did you mean 'rate'? (known here: rate)");
  CHECK(error_of(table({{"gate", table({{"k", 2}})}})) == "no error");  // refines the default gate
  CHECK(error_of(table({{"balancers", List{table({{"rate", 2}})}}})) == "model.balancers[0]: needs the key 'name'");
}

TEST_CASE("an error names file and line") {
  Value k(0);
  k.origin = {std::make_shared<const std::string>("a.toml"), 12};
  Table t;
  t.set("k", k);
  CHECK(error_of(t) == "a.toml:12: model.k: must be at least 1, got 0");
}

TEST_CASE("fields are listed with default, unit and bounds") {
  const auto fields = list_config<Outer>();
  REQUIRE(fields.size() == 7);
  CHECK(fields[0].default_text == "2");
  CHECK(fields[2].choices == std::vector<std::string>{"position", "score"});
  CHECK(fields[4].children.at(0).unit == "1/s");
  CHECK(fields[5].default_text == "\"score\"");
}

TEST_CASE("merging keeps what is not overridden and replaces another mechanism whole") {
  const auto base = table({{"router", table({{"name", "switch"}, {"k", 1}, {"jitter", 0.1}})}, {"n", 4}});
  const auto same = merged(base, table({{"router", table({{"k", 2}})}}));
  CHECK(*find_path(same, "router.jitter") == Value(0.1));
  const auto other = merged(base, table({{"router", table({{"name", "hash"}})}}));
  CHECK(find_path(other, "router.jitter") == nullptr);
  CHECK(differences(base, same) == std::vector<std::string>{"router.k: 1 -> 2"});
}

TEST_CASE("TOML text keeps scalars before tables and quotes what needs it") {
  Table t = table({{"a", table({{"b", 1.0}})}, {"s", "q\"\n"}, {"l", List{Value(1), Value(2)}}});
  CHECK(to_toml(t) == "s = \"q\\\"\\n\"\nl = [1, 2]\n\n[a]\nb = 1.0\n");
}
