// Layers that share one pool of experts: with none but its own open a layer is the local one to the bit; with all open
// it chooses among its neighbours'.
//
// N tokens, D model width, E experts of one layer, M layers.
#include "collegium/layer/expert_pool.h"
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kTokens = 24, kWidth = 8, kExperts = 4, kLayers = 3;

Table router_of(int64_t start, int64_t steps) {
  return table({{"name", "progressive"}, {"k", 2}, {"start", start}, {"steps", steps}});
}

Named routed(const Table& router, int64_t d_expert = 5) {
  return {.name = "routed", .fields = table({{"n_experts", kExperts}, {"d_expert", d_expert}, {"router", router}})};
}

Random stream(int64_t m) {
  return Random(1).at(static_cast<uint64_t>(m));
}

std::unique_ptr<MoeLayer> member(const Named& named, int64_t m, std::shared_ptr<ExpertPool> pool,
                                 at::ScalarType type = at::kFloat) {
  return find(layers(), named, "layer")
      .make(named, {.d_model = kWidth, .random = stream(m), .options = type, .pool = std::move(pool)});
}

std::vector<std::unique_ptr<MoeLayer>> sharing(const Named& named, at::ScalarType type = at::kFloat) {
  std::vector<Random> streams;
  for (int64_t m = 0; m < kLayers; ++m) streams.push_back(stream(m));
  const auto pool = std::make_shared<ExpertPool>(streams);
  std::vector<std::unique_ptr<MoeLayer>> out;
  for (int64_t m = 0; m < kLayers; ++m) out.push_back(member(named, m, pool, type));
  CHECK(pool->n_joined() == kLayers);
  return out;
}

bool has(MoeLayer& made, const std::string& name) {
  for (const auto& p : parameters_of(made))
    if (p.name == name) return true;
  return false;
}

Tensor words(at::ScalarType type) {
  return numbers(Random(3), {kTokens, kWidth}, -1, 1, type);
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "expert pool: with only its own experts open, a layer is the local one to the bit") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    CAPTURE(std::string(at::toString(type)));
    const auto stored = type == at::kDouble ? at::kDouble : at::kFloat;
    const auto together = sharing(routed(router_of(1000, 0)), stored);
    const auto local_router = table({{"name", "top_k"}, {"k", 2}});
    for (int64_t m = 0; m < kLayers; ++m) {
      CAPTURE(m);
      const auto alone = member(routed(local_router), m, nullptr, stored);
      {
        const at::NoGradGuard no_grad;
        parameter(*together[m], "router.scorer.of.weight")
            .slice(0, 0, kExperts)
            .copy_(parameter(*alone, "router.scorer.weight"));
      }
      const auto run = [&](MoeLayer& made, std::vector<Tensor> leaves) {
        auto x_ND = words(type).requires_grad_(true);
        leaves.push_back(x_ND);
        for (auto& t : leaves) t.mutable_grad() = Tensor();
        auto out = made.forward(x_ND, context_of(kTokens, 2, Phase::train));
        auto sum = (out.y_ND * numbers(Random(8), {kTokens, kWidth}, -1, 1, type)).sum().to(stored);
        for (const auto& l : out.losses) sum = sum + l.value;
        sum.backward();
        std::vector<Tensor> all = {out.y_ND.detach()};
        for (const auto& l : out.losses) all.push_back(l.value.detach());
        for (auto& t : leaves) all.push_back(t.grad().clone());
        return std::pair(all, std::move(*out.decision));
      };
      const auto [ours, chosen] =
          run(*together[m], {parameter(*together[0], "experts.gate_up"), parameter(*together[0], "experts.down"),
                             parameter(*together[m], "router.scorer.of.weight")});
      const auto [theirs, local] = run(*alone, {parameter(*alone, "experts.gate_up"), parameter(*alone, "experts.down"),
                                                parameter(*alone, "router.scorer.weight")});
      REQUIRE(ours.size() == theirs.size());
      const auto n = ours.size();
      for (size_t i = 0; i < n; ++i) {
        CAPTURE(i);
        const bool is_expert = i == n - 4 || i == n - 3, is_router = i == n - 2;
        if (!is_expert && !is_router) {
          CHECK(same_bits(ours[i], theirs[i]));
          continue;
        }
        const auto first = is_expert ? m * kExperts : 0;
        CHECK(same_bits(ours[i].slice(0, first, first + kExperts).contiguous(), theirs[i]));
        CHECK(ours[i].abs().sum().item<double>() ==
              doctest::Approx(theirs[i].abs().sum().item<double>()).epsilon(1e-6));  // nothing for the others
      }
      CHECK(chosen.n_experts() == kLayers * kExperts);
      CHECK(same_bits(chosen.token_R(), local.token_R()));
      CHECK(same_bits(chosen.expert_R(), local.expert_R() + m * kExperts));
      CHECK(same_bits(chosen.gate_R().detach(), local.gate_R().detach()));
      CHECK(same_bits(chosen.margin_R(), local.margin_R()));
    }
  }
}

TEST_CASE("expert pool: with all open, a layer's candidates are its own, then the next layer's, around the group") {
  const auto together = sharing(routed(router_of(0, 0)), at::kDouble);
  const auto x_ND = words(at::kDouble);
  for (int64_t m = 0; m < kLayers; ++m) {
    CAPTURE(m);
    const auto out = together[m]->forward(x_ND, context_of(kTokens));
    const auto score_NE = at::linear(x_ND, weight(*together[m], "router.scorer.of.weight")).softmax(1);
    auto y_ND = at::zeros_like(x_ND);
    std::set<int64_t> used;
    for (int64_t n = 0; n < kTokens; ++n) {
      const auto [best, which] = score_NE[n].topk(2);
      for (int64_t i = 0; i < 2; ++i) {
        const auto e = (which[i].item<int64_t>() + m * kExperts) % (kLayers * kExperts);
        used.insert(e / kExperts);
        y_ND[n] += best[i] / best.sum() *
                   swiglu(x_ND[n].unsqueeze(0), weight(*together[0], "experts.gate_up")[e],
                          weight(*together[0], "experts.down")[e])[0];
      }
    }
    CHECK(used.size() == kLayers);
    CHECK(difference(out.y_ND, y_ND) < 1e-12);
    check_decision(*out.decision, kTokens, kLayers * kExperts);
  }
}

TEST_CASE("expert pool: parameters are listed once, and a token meets as many as without a pool") {
  const auto together = sharing(routed(router_of(0, 0)));
  CHECK(has(*together[0], "experts.gate_up"));
  CHECK(parameter(*together[0], "experts.gate_up").size(0) == kLayers * kExperts);
  for (int64_t m = 1; m < kLayers; ++m) CHECK_FALSE(has(*together[m], "experts.gate_up"));
  const auto alone = member(routed(table({{"name", "top_k"}, {"k", 2}})), 0, nullptr);
  // All that a pool adds is the scores of the neighbours' experts.
  const double more = (kLayers - 1) * kExperts * kWidth;
  CHECK(together[1]->facts().parameters_active == alone->facts().parameters_active + more);
  CHECK(together[1]->facts().flops_per_token == alone->facts().flops_per_token + 2 * more);
  for (int64_t m = 0; m < kLayers; ++m)
    CHECK(same_bits(weight(*together[0], "experts.down").slice(0, m * kExperts, (m + 1) * kExperts).contiguous(),
                    weight(*member(routed(router_of(0, 0)), m, nullptr), "experts.down")));
}

TEST_CASE("expert pool: both layers' work trains a shared expert") {
  const auto together = sharing(routed(router_of(0, 0)), at::kDouble);
  auto shared = parameter(*together[0], "experts.down");
  const auto gradient = [&](const std::vector<int64_t>& which) {
    shared.mutable_grad() = Tensor();
    for (const auto m : which)
      together[m]->forward(words(at::kDouble), context_of(kTokens)).y_ND.square().sum().backward();
    return shared.grad().clone();
  };
  CHECK(difference(gradient({0, 2}), gradient({0}) + gradient({2})) < 1e-12);
}

TEST_CASE("expert pool: only layers of one kind and size share") {
  const auto pool = std::make_shared<ExpertPool>(std::vector<Random>{stream(0), stream(1)});
  const auto first = member(routed(router_of(0, 0)), 0, pool);
  const auto said = complaint([&] { member(routed(router_of(0, 0), 6), 1, pool); });
  CHECK(said.find("4 'swiglu' of width 5, this one brings 4 'swiglu' of width 6") != std::string::npos);
}

TEST_CASE("progressive: the pool grows by steps, and a checkpoint goes on where it was") {
  const auto together = sharing(routed(router_of(2, 4)));
  auto& made = *together[1];
  const auto open = [](MoeLayer& layer) {
    auto context = context_of(kTokens);
    context.record = true;
    const auto used = layer.forward(words(at::kFloat), context).score_NE.gt(0).any(0);
    return used.sum().item<int64_t>();
  };
  std::vector<int64_t> seen;
  for (int i = 0; i < 8; ++i) {
    seen.push_back(open(made));
    made.step();
  }
  CHECK(seen == std::vector<int64_t>{4, 4, 4, 6, 8, 10, 12, 12});
  const auto again = sharing(routed(router_of(2, 4)));
  for (int i = 0; i < 4; ++i) together[0]->step();
  CHECK(open(*again[0]) == 4);
  CHECK(load(*again[0], save(*together[0])) > 0);
  CHECK(open(*again[0]) == 8);
}
