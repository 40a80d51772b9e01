// Statistics of hidden units, against numbers worked out by hand.
//
// N tokens, D model width, I hidden width, R rows.
#include "collegium/layer/activations.h"

#include <map>

#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

std::map<std::string, double> means(const std::vector<Statistic>& all) {
  std::map<std::string, double> out;
  for (const auto& s : all) {
    CHECK(out.count(s.name) == 0);
    CHECK(s.weight > 0);
    out[s.name] = s.sum / s.weight;
  }
  return out;
}

route::Context recorded(int64_t n) {
  auto context = context_of(n);
  context.record = true;
  return context;
}

}  // namespace

TEST_CASE("shares of hidden units by hand, adding up over calls") {
  std::vector<Statistic> all;
  add_activations(all, at::tensor({0.5, -0.5, 0.05, 0.0}, at::kDouble).unsqueeze(0));
  auto found = means(all);
  CHECK(found["active_units"] == 0.5);
  CHECK(found["nonzero_units"] == 0.75);
  CHECK(found["effective_units"] == doctest::Approx(1.05 * 1.05 / (4 * 0.5025)));
  // Four units alike, then one that does all, in rows of another width.
  add_activations(all, at::tensor({2., 2., 2., 2.}, at::kDouble).unsqueeze(0));
  add_activations(all, at::tensor({0., -3.}, at::kDouble).unsqueeze(0));
  found = means(all);
  CHECK(found["active_units"] == 0.7);
  CHECK(found["nonzero_units"] == 0.8);
  CHECK(found["effective_units"] == doctest::Approx((1.05 * 1.05 / 0.5025 + 4 + 1) / 10));
  add_activations(all, at::zeros({3, 5}));  // units that are all off count as none at work
  CHECK(means(all)["effective_units"] == doctest::Approx((1.05 * 1.05 / 0.5025 + 4 + 1) / 25));
}

TEST_CASE("layers state the activations of the experts that work, for real tokens, when recorded") {
  const int64_t N = 9, D = 6;
  const auto x_ND = inputs(N, D);
  for (const char* kind : {"swiglu", "gelu"}) {
    const auto dense = make_layer({.name = "dense", .fields = table({{"d_hidden", 7}, {"expert", kind}})}, D);
    CHECK(dense->forward(x_ND, context_of(N)).statistics.empty());
    auto context = recorded(N);
    context.mask_N = at::arange(N).lt(4);
    const auto masked = means(dense->forward(x_ND, context).statistics);
    CHECK(masked == means(dense->forward(x_ND.slice(0, 0, 4), recorded(4)).statistics));
    CHECK(masked.size() == 3);
  }
  // All experts at work: what the layer states is what the experts' hidden units say together.
  const auto router = table({{"name", "top_k"}, {"k", 3}});
  const auto routed = make_layer(
      {.name = "routed", .fields = table({{"n_experts", 3}, {"d_expert", 5}, {"router", router}, {"n_shared", 2}})}, D);
  std::vector<Statistic> expected;
  for (const auto* which : {"experts", "shared"}) {
    const auto gate_up = weight(*routed, std::string(which) + ".gate_up");
    for (int64_t e = 0; e < gate_up.size(0); ++e) {
      const auto halves = at::linear(x_ND, gate_up[e]).chunk(2, -1);
      add_activations(expected, at::silu(halves[0]) * halves[1]);
    }
  }
  const auto found = means(routed->forward(x_ND, recorded(N)).statistics);
  for (const auto& [name, value] : means(expected)) CHECK(found.at(name) == doctest::Approx(value));
}

TEST_CASE("long passes are sampled evenly") {
  const int64_t N = 1024, D = 4;
  const auto dense = make_layer({.name = "dense", .fields = table({{"d_hidden", 3}})}, D);
  const auto x_ND = inputs(N, D);
  const auto every_fourth_ND = x_ND.index_select(0, at::arange(0, N, 4));
  const auto found = dense->forward(x_ND, recorded(N)).statistics;
  CHECK(found[0].weight == 256 * 3);
  CHECK(means(found) == means(dense->forward(every_fourth_ND, recorded(N / 4)).statistics));
}
