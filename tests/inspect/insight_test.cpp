// What a trace tells, against numbers worked out by hand.
#include "collegium/inspect/insight.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "collegium/base/error.h"
#include "collegium/inspect/trace_file.h"
#include "collegium/route/room_limit.h"

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
  CHECK(l["partners"][0]["expert"] == 1);
  CHECK(l["partners"][0]["share"].get<double>() == doctest::Approx(2.0 / 3));
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

TEST_CASE("without texts a trace shows its tokens by number") {
  const auto l = routing_insight(trace_of({0, 0, 2, 2}))[0];
  CHECK(l["token_information"].get<double>() == doctest::Approx(1));
  CHECK(l["favourites"][0][0] == "#0");
  CHECK(l["favourites"][2][0] == "#2");
  CHECK_FALSE(l.contains("classes"));
  CHECK_FALSE(l.contains("class_information"));
}

TEST_CASE("notes name layers and tell how many choices were of null experts") {
  // Eight choices remain of four tokens with four each.
  const auto l =
      routing_insight(trace_of({}), {}, {.layers = {{1, {.name = "attention 0", .null_experts = 5, .choices = 4}}}})[0];
  CHECK(l["name"] == "attention 0");
  CHECK(l["null_share"].get<double>() == doctest::Approx(.5));
  CHECK_FALSE(routing_insight(trace_of({}))[0].contains("null_share"));
}

TEST_CASE("of many experts only the closest pairs are told") {
  const int64_t E = kMostPaired + 1;
  const auto d = route::Decision::make(
      {longs({0, 0, 1, 1}), longs({3, 64, 3, 64}), longs({0, 1, 0, 1}), doubles({1, 1, 1, 1}), doubles({1, 1, 1, 1})},
      2, E);
  route::RoutingTrace trace;
  trace.records.push_back({.decision = d.with_gates(d.score_R())});
  const auto l = routing_insight(trace)[0];
  CHECK_FALSE(l.contains("pairs"));
  REQUIRE(l["partners"].size() == static_cast<size_t>(E));
  CHECK(l["partners"][3] == nlohmann::json{{"expert", 64}, {"share", 1.0}});
  CHECK(l["partners"][0].is_null());
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

  const auto sure = at::full({2}, kInf);
  const auto drawn = route::Decision::make({longs({0, 1}), longs({0, 1}), longs({0, 0}), at::ones({2}), sure}, 2, 3)
                         .with_gates(at::ones({2}));
  const auto by_chance = explain_token(drawn, 0, {}, {}, {.rule = "chance decides"});
  CHECK_FALSE(by_chance[0].contains("score"));
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
  CHECK(rows[0]["expert"] == 0);
  CHECK(rows[0]["fate"] == "asked for and full: 2 asked, room for 1; a place would have to come free; moved to 1");
  CHECK(rows[0]["margin"].get<double>() == doctest::Approx(.6));
  CHECK(rows[0]["moved_to"] == 1);
  CHECK(rows[1]["fate"] == "moved here: 0 was full");
  CHECK(rows[1]["moved_from"] == 0);
  CHECK_FALSE(rows[1].contains("margin"));
}

namespace {

// All five tokens ask for expert 0, which has room for two; ranks and scores as given, margins .1 to .5.
route::Decision crowded(const std::vector<int64_t>& rank, const std::vector<double>& score, route::Priority order) {
  const auto asked = route::Decision::make(
      {longs({0, 1, 2, 3, 4}), longs({0, 0, 0, 0, 0}), longs(rank), doubles(score), doubles({.1, .2, .3, .4, .5})}, 5,
      2);
  const auto fits = route::fits_R(asked, at::zeros({5}, at::kLong), {2}, order);
  const auto d = asked.keep_only(fits, route::DropReason::capacity);
  return d.with_gates(d.score_R());
}

nlohmann::json turned_away(const route::Decision& d, int64_t token, const route::PlaceRule& places) {
  const auto row = explain_token(d, token, {}, {}, {.places = places})[0];
  REQUIRE(row["expert"] == 0);
  return row;
}

}  // namespace

TEST_CASE("what is dropped has its place in the queue, and the margin of its choice") {
  using route::Priority;
  const std::vector<double> score = {.5, .9, .6, .8, .7};
  const auto first = turned_away(crowded({0, 0, 0, 0, 0}, score, Priority::position), 3, {Priority::position});
  CHECK(first["queue"] == 3);
  CHECK(first["margin"].get<double>() == doctest::Approx(.4));
  CHECK(first["fate"] ==
        "asked for and dropped: 5 asked, room for 2, earlier tokens first: it is number 4, and 2 of those before it "
        "would have to go elsewhere");
  const auto best = turned_away(crowded({0, 0, 0, 0, 0}, score, Priority::score), 2, {Priority::score});
  CHECK(best["queue"] == 3);
  CHECK(best["fate"] ==
        "asked for and dropped: 5 asked, room for 2, higher scores first: it is number 4, and 2 of those before it "
        "would have to go elsewhere, or its score rise by 0.2");
  const auto ranked = turned_away(crowded({1, 1, 0, 1, 0}, score, Priority::rank), 0, {Priority::rank});
  CHECK(ranked["queue"] == 2);
  CHECK(ranked["fate"].get<std::string>().find("number 3, and 1 of") != std::string::npos);
  // Kept ones have a place, too; an order that cannot have been tells none.
  CHECK(turned_away(crowded({0, 0, 0, 0, 0}, score, Priority::position), 1, {Priority::position})["queue"] == 1);
  CHECK_FALSE(turned_away(crowded({0, 0, 0, 0, 0}, score, Priority::score), 0, {Priority::position}).contains("queue"));
}

TEST_CASE("that score which a dropped token lacks would get it a place") {
  using route::Priority;
  std::vector<double> score = {.5, .9, .6, .8, .7};
  const auto is_kept = [&] {
    return crowded({0, 0, 0, 0, 0}, score, Priority::score).token_R().eq(2).any().item<bool>();
  };
  score[2] += .2 - 1e-6;
  CHECK_FALSE(is_kept());
  score[2] += 2e-6;
  CHECK(is_kept());
}

TEST_CASE("the margin of a move is the distance to the next expert that could have had it") {
  // Three experts with a place each. Token 0 has expert 0; tokens 1 and 2 were moved from there to 1 and to 2.
  const auto d = route::Decision::from_parts({.n_tokens = 3,
                                              .n_experts = 4,
                                              .token_R = longs({0, 1, 2}),
                                              .expert_R = longs({0, 1, 2}),
                                              .gate_R = at::ones({3}),
                                              .rank_R = longs({0, 0, 0}),
                                              .slot_R = {},
                                              .score_R = doubles({.9, .3, .25}),
                                              .margin_R = doubles({.5, .2, .3}),
                                              .wanted_R = longs({0, 0, 0}),
                                              .dropped = {}});
  const auto score_NE = doubles({.9, 0, 0, 0, .5, .3, .1, .05, .6, .3, .25, .15}).reshape({3, 4});
  const route::PlaceRule places{.order = route::Priority::position,
                                .elsewhere = "of the experts with room it scores best here"};
  const auto second = explain_token(d, 1, score_NE, {}, {.places = places})[1];
  CHECK(second["expert"] == 1);
  CHECK(second["margin"].get<double>() == doctest::Approx(.2));  // expert 2 was free then
  CHECK(second["fate"] ==
        "moved here: 0 was full, and of the experts with room it scores best here; another would take it if its score "
        "fell by 0.2");
  const auto third = explain_token(d, 2, score_NE, {}, {.places = places})[1];
  CHECK(third["expert"] == 2);
  CHECK(third["margin"].get<double>() == doctest::Approx(.1));  // expert 1 was not, 3 was
  // With two devices of two experts each, only expert 3 is beside 2.
  auto near = places;
  near.n_devices = 2;
  CHECK(explain_token(d, 1, score_NE, {}, {.places = near})[1].contains("margin") == false);
  CHECK(explain_token(d, 2, score_NE, {}, {.places = near})[1]["margin"].get<double>() == doctest::Approx(.1));
}

TEST_CASE("a move turns at the margin that is told") {
  constexpr int64_t N = 24, E = 6;
  for (const auto* kind : {"reroute", "rectify"}) {
    Named named{.name = kind, .fields = table({{"factor", 1.0}})};
    if (named.name == "rectify") named.fields.set("n_devices", Value(2));
    const auto capacity = find(route::capacities(), named, "capacity").make(named, {.n_experts = E});
    // Most tokens want one of the first experts of their device.
    auto score_NE = Random(3).uniform({N, E}, 0, 1, at::kDouble) + at::tensor({.4, 0., 0., .5, 0., 0.}, at::kDouble);
    const auto best = score_NE.max(1);
    const auto asked = route::Decision::make(
        {at::arange(N), std::get<1>(best), at::zeros({N}, at::kLong), std::get<0>(best), at::ones({N}, at::kDouble)}, N,
        E);
    const auto places = capacity->places(asked);
    CHECK(places.slots == N / E);
    const auto placed = [&](const Tensor& changed_NE) {
      const route::Scores scores{
          .score_NE = changed_NE, .kind = route::ScoreKind::sigmoid, .n_tokens = N, .n_experts = E};
      const auto d = capacity->apply(asked, scores, {});
      return d.with_gates(at::ones_like(d.score_R()));
    };
    const auto went_to = [](const route::Decision& d, int64_t token) {
      const auto is_moved_R =
          d.token_R().eq(token).logical_and(d.wanted_R().ge(0)).logical_and(d.wanted_R().ne(d.expert_R()));
      const auto expert = d.expert_R().masked_select(is_moved_R);
      return expert.size(0) == 1 ? expert.item<int64_t>() : -1;
    };
    const auto d = placed(score_NE);
    int64_t n_turned = 0;
    for (int64_t n = 0; n < N; ++n)
      for (const auto& row : explain_token(d, n, score_NE, {}, {.places = places})) {
        if (!row.contains("moved_from") || !row.contains("margin")) continue;
        const auto e = row["expert"].get<int64_t>();
        CAPTURE(kind);
        CAPTURE(n);
        for (const auto off : {-1e-9, 1e-9}) {
          auto changed_NE = score_NE.clone();
          changed_NE[n][e] -= row["margin"].get<double>() + off;
          CHECK((went_to(placed(changed_NE), n) == e) == (off < 0));
        }
        ++n_turned;
      }
    CHECK(n_turned >= 3);
  }
}

TEST_CASE("null experts that a token chose are told with score, rank and margin") {
  // Two experts, two null ones behind them; each token takes the best two of the four.
  const auto compared_NX = doubles({.4, .1, .3, .2, .1, .2, .3, .4}).reshape({2, 4});
  const route::Reasons reasons{.compared_NE = compared_NX,
                               .turns_at_NE = doubles({.2, .3, .2, .3, .3, .3, .2, .2}).reshape({2, 4}),
                               .rule = "each token takes its 2 best experts"};
  const auto d = route::Decision::make({longs({0}), longs({0}), longs({0}), doubles({.4}), doubles({.2})}, 2, 2)
                     .with_gates(at::ones({1}));
  const auto one = explain_token(d, 0, compared_NX, {}, reasons);
  REQUIRE(one.size() == 4);
  CHECK(one[0]["expert"] == 0);
  CHECK(one[1]["expert"] == 2);
  CHECK(one[1]["null"] == true);
  CHECK(one[1]["rank"] == 1);
  CHECK(one[1]["margin"].get<double>() == doctest::Approx(.1));
  CHECK(one[1]["fate"] == "chosen: a null expert, no work is done; lost only if its score fell by 0.1");
  CHECK_FALSE(one[1].contains("asked_by"));
  CHECK(one[2]["chosen"] == false);
  // All choices went to null experts.
  const auto none = explain_token(d, 1, compared_NX, {}, reasons);
  CHECK(none[0]["expert"] == 3);
  CHECK(none[0]["rank"] == 0);
  CHECK(none[1]["expert"] == 2);
  CHECK(none[2]["fate"] == "not chosen: its score would have to rise by 0.1");
  CHECK_FALSE(none[2].contains("null"));
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
