// What an evaluation says about routing, against numbers worked out by hand.
#include "collegium/train/routing_meter.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "collegium/route/first_expert.h"

namespace {

using namespace collegium;
using collegium::train::RoutingMeter;

Tensor longs(const std::vector<int64_t>& v) {
  return at::tensor(v, at::kLong);
}
Tensor doubles(const std::vector<double>& v) {
  return at::tensor(v, at::kDouble);
}

// Four tokens, three experts. Gates: token 0 -> e1 .6, e0 .4; token 1 -> e2; token 2 -> e0, e1 equal; token 3 nothing.
route::Decision four_tokens() {
  const auto inf = std::numeric_limits<double>::infinity();
  const auto d = route::Decision::make({longs({0, 0, 1, 2, 2}), longs({1, 0, 2, 0, 1}), longs({0, 1, 0, 0, 1}),
                                        doubles({.6, .4, .9, .5, .5}), doubles({.2, .1, inf, .3, .1})},
                                       4, 3);
  return d.with_gates(d.score_R());
}

model::ModelOutput output_of(const route::Decision& d, const Tensor& input_ND, const Tensor& score_NE) {
  model::ModelOutput out;
  out.decisions = {d};
  out.records = {{input_ND, score_NE, Tensor()}};
  return out;
}

}  // namespace

TEST_CASE("the first expert: highest gate, ties to the lower id, -1 without one") {
  CHECK(at::equal(route::first_expert(four_tokens()), longs({1, 2, 0, -1})));
}

TEST_CASE("entropy, margin, use and fluctuation by hand") {
  const auto score_NE = doubles({.5, .5, 0, 0, 0, 2, 1, 1, 1, 1, 0, 0}).reshape({4, 3});
  RoutingMeter meter;
  meter.add(output_of(four_tokens(), at::zeros({4, 2}), score_NE), Tensor());
  nlohmann::json row;
  meter.report(row, Tensor());
  const auto& layer = row["layers"][0];
  CHECK(layer["score_entropy"].get<double>() == doctest::Approx((std::log(2) + std::log(3)) / 4));
  CHECK(layer["margin"].get<double>() == doctest::Approx((.2 + .3) / 2));
  CHECK(layer["utilisation"].get<double>() == 1);
  CHECK_FALSE(layer.contains("fluctuation"));
  meter.report(row, at::tensor(std::vector<int64_t>{1, 2, 1, -1}, at::kInt).unsqueeze(0));
  CHECK(layer["fluctuation"].get<double>() == 0.25);
}

TEST_CASE("collapse: 1 when every state sits on its expert's centroid, 0 when experts share one") {
  const auto collapse = [](const std::vector<double>& x) {
    RoutingMeter meter;
    const auto d = route::Decision::make(
        {longs({0, 1, 2, 3}), longs({0, 0, 1, 1}), longs({0, 0, 0, 0}), doubles({1, 1, 1, 1}), doubles({1, 1, 1, 1})},
        4, 2);
    meter.add(output_of(d.with_gates(d.score_R()), doubles(x).reshape({4, 1}), Tensor()), Tensor());
    nlohmann::json row;
    meter.report(row, Tensor());
    return row["layers"][0]["collapse"].get<double>();
  };
  CHECK(collapse({1, 1, 5, 5}) == doctest::Approx(1));
  CHECK(collapse({1, 5, 1, 5}) == doctest::Approx(0));
  // Centroids 0 and 4 around 2, each state 1 away from its own: 4 of 5 parts lie between.
  CHECK(collapse({-1, 1, 3, 5}) == doctest::Approx(0.8));
}

TEST_CASE("masked tokens count nowhere, and passes add up") {
  const auto score_NE = doubles({.5, .5, 0, 0, 0, 2, 1, 1, 1, 1, 0, 0}).reshape({4, 3});
  RoutingMeter meter;
  meter.add(output_of(four_tokens(), at::ones({4, 2}), score_NE),
            at::tensor(std::vector<int64_t>{1, 1, 0, 0}).to(at::kBool));
  meter.add(output_of(four_tokens(), at::ones({4, 2}), score_NE), Tensor());
  nlohmann::json row;
  meter.report(row, Tensor());
  CHECK(row["layers"][0]["score_entropy"].get<double>() == doctest::Approx((2 * std::log(2) + std::log(3)) / 6));
  CHECK(meter.first_experts().sizes() == at::IntArrayRef({1, 8}));
}

TEST_CASE("what layers state is a mean over passes, one number a layer that states it") {
  RoutingMeter meter;
  const auto pass = [](std::vector<std::vector<layer::Statistic>> statistics) {
    model::ModelOutput out;
    out.statistics = std::move(statistics);
    return out;
  };
  meter.add(pass({{{"active_units", 3, 10}}, {}, {{"active_units", 1, 10}, {"other", 4, 2}}}), Tensor());
  meter.add(pass({{{"active_units", 2, 15}}, {}, {{"active_units", 0, 30}, {"silent", 0, 0}}}), Tensor());
  nlohmann::json row;
  meter.report(row, Tensor());
  CHECK(row["statistics"] == nlohmann::json{{"active_units", {5 / 25.0, 1 / 40.0}}, {"other", {2.0}}});
  CHECK_FALSE(row.contains("layers"));
}
