// What a trace tells, against numbers worked out by hand.
#include "collegium/inspect/insight.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "collegium/base/error.h"
#include "collegium/inspect/trace_file.h"

namespace {

using namespace collegium;

Tensor longs(const std::vector<int64_t>& v) {
  return at::tensor(v, at::kLong);
}
Tensor doubles(const std::vector<double>& v) {
  return at::tensor(v, at::kDouble);
}
constexpr double kInf = std::numeric_limits<double>::infinity();

// Four tokens, two experts each of three: 0 -> {0, 1}, 1 -> {0, 1}, 2 -> {2, 0}, 3 -> {2, 1}.
route::Decision four_tokens() {
  const auto d = route::Decision::make(
      {longs({0, 0, 1, 1, 2, 2, 3, 3}), longs({0, 1, 0, 1, 2, 0, 2, 1}), longs({0, 1, 0, 1, 0, 1, 0, 1}),
       doubles({.6, .4, .7, .3, .8, .2, .9, .1}), doubles({.1, .1, .2, .1, .3, .1, .4, kInf})},
      4, 3);
  return d.with_gates(d.score_R());
}

route::RoutingTrace trace_of(const std::vector<int64_t>& ids) {
  route::RoutingTrace trace;
  trace.records.push_back({.layer = 1, .token_id_N = ids.empty() ? Tensor() : longs(ids), .decision = four_tokens()});
  return trace;
}

std::string letter(int64_t id) {
  return std::vector<std::string>{"a", " B", ",", "\n"}[static_cast<size_t>(id)];
}

}  // namespace

TEST_CASE("loads, pairs and margins of a trace without a model") {
  const auto all = routing_insight(trace_of({}));
  REQUIRE(all.size() == 1);
  const auto& l = all[0];
  CHECK(l["layer"] == 1);
  CHECK(l["per_token"] == 2);
  CHECK(l["load"][0].get<double>() == doctest::Approx(3.0 / 8));
  CHECK(l["load"][2].get<double>() == doctest::Approx(2.0 / 8));
  CHECK(l["max_violation"].get<double>() == doctest::Approx(3.0 / 8 * 3 - 1));
  CHECK(l["entropy"].get<double>() ==
        doctest::Approx(-(2 * .375 * std::log(.375) + .25 * std::log(.25)) / std::log(3)));
  CHECK(l["pairs"][0][1].get<double>() == doctest::Approx(2.0 / 3));
  CHECK(l["pairs"][2][0].get<double>() == doctest::Approx(1.0 / 2));
  CHECK(l["pairs"][2][2] == 1);
  CHECK(l["margin"]["p50"].get<double>() == doctest::Approx(.2));
  CHECK(l["dropped"] == 0);
  CHECK_FALSE(l.contains("classes"));
}

TEST_CASE("classes and ids: information is 1 where the token decides, 0 where it does not matter") {
  const auto decided = routing_insight(trace_of({0, 0, 2, 2}), letter)[0];
  CHECK(decided["class_information"].get<double>() == doctest::Approx(1));
  CHECK(decided["token_information"].get<double>() == doctest::Approx(1));
  CHECK(decided["favourites"][0][0] == "a");
  CHECK(decided["favourites"][2][0] == ",");
  CHECK(decided["favourites"][1].empty());
  CHECK(decided["classes"].size() == 2);
  CHECK(decided["classes"][0]["tokens"] == 2);
  const auto mixed = routing_insight(trace_of({0, 2, 0, 2}), letter)[0];
  CHECK(mixed["class_information"].get<double>() == doctest::Approx(0));
}

TEST_CASE("token classes") {
  CHECK(token_class(" the") == "word start");
  CHECK(token_class("ing") == "word part");
  CHECK(token_class("'s") == "word part");
  CHECK(token_class(" King") == "capital");
  CHECK(token_class("1790") == "number");
  CHECK(token_class(",") == "punctuation");
  CHECK(token_class("'") == "punctuation");
  CHECK(token_class("\n\n") == "line break");
  CHECK(token_class("  ") == "space");
  CHECK(token_class("\xc3\xa9t") == "word part");
  CHECK(token_class("\xe2\x82") == "other");
  CHECK(token_class("") == "other");
}

TEST_CASE("why a token got its experts, and what would have to change") {
  const auto score_NE = doubles({.6, .4, .3, .7, .3, 0, .2, .1, .8, 0, .1, .9}).reshape({4, 3});
  // The second best of the others: what each must be above.
  const route::Reasons reasons{
      .compared_NE = score_NE + doubles({0, 0, -.05}),
      .turns_at_NE = doubles({.25, .25, .4, .3, .25, .3, .15, .1, .2, 0, 0, .1}).reshape({4, 3}),
      .rule = "each token takes its 2 best experts"};
  const auto rows = explain_token(four_tokens(), 0, score_NE, doubles({0, 0, -.05}), reasons);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0]["expert"] == 0);
  CHECK(rows[0]["rank"] == 0);
  CHECK(rows[0]["gate"].get<double>() == doctest::Approx(.6));
  CHECK(rows[0]["fate"] == "chosen; lost only if its score fell by 0.1");
  CHECK(rows[2]["expert"] == 2);
  CHECK(rows[2]["compared"].get<double>() == doctest::Approx(.25));
  CHECK(rows[2]["fate"] == "not chosen: its score would have to rise by 0.15");
  CHECK(rows[2]["margin"].get<double>() == doctest::Approx(-.15));
  CHECK(rows[0]["slot"] == 0);
  CHECK_FALSE(rows[2].contains("slot"));
  CHECK_FALSE(rows[0].contains("group"));
  CHECK(explain_token(four_tokens(), 0, score_NE, {})[2]["fate"] == "not chosen");
  CHECK_THROWS_AS(explain_token(four_tokens(), 4, score_NE, {}), Error);

  // Token 1's second choice finds no room.
  const auto d = four_tokens();
  const auto dropped = d.keep_only(longs({1, 1, 1, 1, 0, 1, 1, 1}).to(at::kBool), route::DropReason::capacity);
  const auto gone = explain_token(dropped, 1, score_NE, {});
  CHECK(gone[1]["expert"] == 1);
  CHECK(gone[1]["fate"] == "asked for and dropped: 3 asked, room for 2; a place would have to come free");
  CHECK_FALSE(gone[1].contains("gate"));
}

TEST_CASE("what would have to change is said by the selector") {
  const auto score_NE = doubles({.6, .4, .3, .7, .3, 0, .2, .1, .8, 0, .1, .9}).reshape({4, 3});
  const auto fate = [&](route::Reasons reasons, const std::vector<double>& turns_at) {
    reasons.compared_NE = score_NE, reasons.turns_at_NE = doubles(turns_at).expand({4, 3});
    const auto row = explain_token(four_tokens(), 0, score_NE, {}, reasons)[2];
    REQUIRE(row["expert"] == 2);
    return row["fate"].get<std::string>();
  };
  CHECK(fate({.compares = "logit"}, {0, 0, .5}) == "not chosen: its logit would have to rise by 0.2");
  CHECK(fate({}, {0, 0, kInf}) == "not chosen: closed to this token, whatever its score");
  CHECK(fate({}, {0, 0, .1}) == "not chosen here, though the router would: the layer takes fewer");
  CHECK(fate({}, {0, 0, -kInf}) == "not chosen here, though the router would: the layer takes fewer");
  const route::Reasons grouped{.group_E = {0, 0, 1},
                               .group_taken_NE = at::tensor({1, 1, 0}, at::kLong).to(at::kBool).expand({4, 3})};
  CHECK(fate(grouped, {0, 0, .4}) == "not chosen: its score would have to rise by 0.1, which would take group 1, too");
  const auto in_group = explain_token(four_tokens(), 0, score_NE, {}, grouped);
  CHECK(in_group[0]["group"] == 0);
  CHECK(in_group[0]["group_taken"] == true);
  CHECK(in_group[2]["group_taken"] == false);

  const auto by_chance = explain_token(four_tokens(), 0, {}, {}, {.rule = "chance decides"});
  CHECK(by_chance[0]["fate"] == "chosen; no score of this token decides");
  CHECK(by_chance[2]["fate"] == "not chosen; no score of this token decides");
}

TEST_CASE("an assignment that capacity moved is told at both experts") {
  const auto d = route::Decision::from_parts({.n_tokens = 2,
                                              .n_experts = 2,
                                              .token_R = longs({0, 1}),
                                              .expert_R = longs({0, 1}),
                                              .gate_R = at::ones({2}),
                                              .rank_R = longs({0, 0}),
                                              .slot_R = {},
                                              .score_R = doubles({.9, .8}),
                                              .margin_R = doubles({.8, .6}),
                                              .wanted_R = longs({0, 0}),
                                              .dropped = {}});
  const auto rows = explain_token(d, 1, doubles({.9, .1, .8, .2}).reshape({2, 2}), {});
  CHECK(rows[0]["fate"] == "the wanted expert was full, this one had room");
  CHECK(rows[1]["fate"] == "asked for and full: 2 asked, room for 1; moved to 1");
}

TEST_CASE("moved and added assignments survive a trace file") {
  const auto folder = std::filesystem::temp_directory_path() / "collegium_trace_test";
  std::filesystem::create_directories(folder);
  auto& fs = io::real_file_system();
  route::Decision::Parts parts{.n_tokens = 3,
                               .n_experts = 2,
                               .token_R = longs({0, 1, 2}),
                               .expert_R = longs({0, 1, 1}),
                               .gate_R = at::ones({3}),
                               .rank_R = longs({0, 0, 0}),
                               .slot_R = {},
                               .score_R = at::ones({3}),
                               .margin_R = at::ones({3}),
                               .wanted_R = longs({0, 0, -1}),
                               .dropped = {}};
  route::RoutingTrace trace;
  trace.records.push_back({.layer = 0, .decision = route::Decision::from_parts(std::move(parts))});
  write_trace(fs, folder / "t.safetensors", trace);
  const auto read = read_trace(fs, folder / "t.safetensors");
  const auto& d = read.records.at(0).decision;
  CHECK(d.n_filled() == 1);
  CHECK(d.n_asked() == 2);
  CHECK(at::equal(d.asked_E(), longs({2, 0})));
  CHECK(routing_insight(read)[0]["moved"].get<double>() == doctest::Approx(2.0 / 3));
  std::filesystem::remove_all(folder);
}
