// OmniMoE and PEER against a search through all experts and a loop over tokens, and their two schedules against each
// other.
//
// N tokens, D model width, E experts, S = sqrt(E) rows and columns, H heads, K choices of a head.
#include <algorithm>
#include <map>

#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kTokens = 9, kWidth = 6, kSide = 4, kExperts = kSide * kSide;

std::unique_ptr<MoeLayer> layer_of(const std::string& name, std::initializer_list<std::pair<std::string, Value>> more) {
  auto fields = table({{"n_experts", kExperts}});
  for (const auto& [key, value] : more) fields.set(key, value);
  auto made = make_layer({.name = name, .fields = fields}, kWidth);
  scale_parameters(*made->router(), 2);
  return made;
}

Tensor normalised(const Tensor& x_NC) {
  const auto mean_C = x_NC.mean(0);
  return (x_NC - mean_C) / ((x_NC - mean_C).square().mean(0) + 1e-5).sqrt();
}

// One token's output: the k best of all E scores, each expert written out.
struct Pick {
  int64_t expert;
  Tensor weight;
};
Tensor written_out(MoeLayer& made, const Tensor& x_D, const std::vector<Pick>& picks, bool is_silu, bool is_gated) {
  auto y_D = at::zeros({kWidth}, at::kDouble);
  for (const auto& [e, weight] : picks) {
    const auto up = at::dot(parameter(made, "experts.up")[e], x_D);
    const auto act = [&](const Tensor& h) { return is_silu ? at::silu(h) : at::gelu(h); };
    const auto a = is_gated ? act(at::dot(parameter(made, "experts.gate")[e], x_D)) * up : act(up);
    y_D = y_D + weight * a * parameter(made, "experts.down")[e];
  }
  return y_D;
}

Tensor omni_written_out(MoeLayer& made, const Tensor& x_ND, int64_t k, bool has_norm, bool is_share, bool is_gated) {
  auto score_N2S = at::linear(x_ND, parameter(made, "router.scorer.key").view({2 * kSide, kWidth}));
  if (has_norm) score_N2S = normalised(score_N2S);
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < x_ND.size(0); ++n) {
    auto p_S = score_N2S[n].slice(0, 0, kSide), q_S = score_N2S[n].slice(0, kSide);
    const auto all_E = is_share ? (p_S.unsqueeze(1) + q_S.unsqueeze(0)).flatten()
                                : (p_S.softmax(0).unsqueeze(1) * q_S.softmax(0).unsqueeze(0)).flatten();
    const auto chosen = std::get<1>(all_E.detach().topk(k));
    const auto weight_K = is_share ? all_E.index_select(0, chosen).softmax(0) : all_E.index_select(0, chosen);
    std::vector<Pick> picks;
    for (int64_t j = 0; j < k; ++j) picks.push_back({chosen[j].item<int64_t>(), weight_K[j]});
    rows.push_back(written_out(made, x_ND[n], picks, true, is_gated) + swiglu(x_ND[n].unsqueeze(0),
                                                                              parameter(made, "shared.gate_up")[0],
                                                                              parameter(made, "shared.down")[0])[0]);
  }
  return at::stack(rows);
}

Tensor peer_written_out(MoeLayer& made, const Tensor& x_ND, int64_t heads, int64_t k, int64_t d_key, bool has_norm) {
  auto query_NQ = at::linear(x_ND, parameter(made, "router.scorer.query"));
  if (has_norm) query_NQ = normalised(query_NQ);
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < x_ND.size(0); ++n) {
    std::vector<Pick> picks;
    for (int64_t h = 0; h < heads; ++h) {
      const auto half = [&](int64_t i) {
        const auto g = 2 * h + i;
        return at::mv(parameter(made, "router.scorer.key")[g], query_NQ[n].slice(0, g * d_key, (g + 1) * d_key));
      };
      const auto all_E = (half(0).unsqueeze(1) + half(1).unsqueeze(0)).flatten();
      const auto chosen = std::get<1>(all_E.detach().topk(k));
      const auto weight_K = all_E.index_select(0, chosen).softmax(0);
      for (int64_t j = 0; j < k; ++j) picks.push_back({chosen[j].item<int64_t>(), weight_K[j]});
    }
    rows.push_back(written_out(made, x_ND[n], picks, false, false));
  }
  return at::stack(rows);
}

// Output and gradients by x and every parameter.
std::vector<Tensor> values_of(MoeLayer& made, const std::function<Tensor(const Tensor&)>& forward) {
  const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
  return values_and_gradients(made, x_ND, [&] { return forward(x_ND); });
}

void check_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b, double limit = 1e-11) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(difference(a[i], b[i]) < limit);
  }
}

route::Context in_phase(Phase phase) {
  return context_of(kTokens, 1, phase);
}

}  // namespace

TEST_CASE("omni: equals a search through all experts, values and gradients, under both schedules") {
  for (const bool has_norm : {true, false})
    for (const bool is_share : {true, false})
      for (const bool is_gated : {true, false})
        for (const int64_t k : {1, 5})
          for (const auto* schedule : {"expert", "token"}) {
            CAPTURE(has_norm);
            CAPTURE(is_share);
            CAPTURE(is_gated);
            CAPTURE(k);
            CAPTURE(schedule);
            const auto made = layer_of("omni", {{"k", k},
                                                {"d_shared", 3},
                                                {"batch_norm", has_norm},
                                                {"gated", is_gated},
                                                {"schedule", schedule},
                                                {"weight", is_share ? "share" : "probability"}});
            check_equal(
                values_of(*made, [&](const Tensor& x) { return made->forward(x, in_phase(Phase::train)).y_ND; }),
                values_of(*made, [&](const Tensor& x) {
                  return omni_written_out(*made, x, k, has_norm, is_share, is_gated);
                }));
          }
}

TEST_CASE("peer: equals a search through all experts by each head, values and gradients, under both schedules") {
  for (const bool has_norm : {true, false})
    for (const int64_t heads : {1, 3})
      for (const int64_t k : {1, 6})
        for (const auto* schedule : {"expert", "token"}) {
          CAPTURE(has_norm);
          CAPTURE(heads);
          CAPTURE(k);
          CAPTURE(schedule);
          const auto made = layer_of(
              "peer", {{"heads", heads}, {"k", k}, {"d_key", 2}, {"batch_norm", has_norm}, {"schedule", schedule}});
          check_equal(
              values_of(*made, [&](const Tensor& x) { return made->forward(x, in_phase(Phase::train)).y_ND; }),
              values_of(*made, [&](const Tensor& x) { return peer_written_out(*made, x, heads, k, 2, has_norm); }));
        }
}

TEST_CASE("peer: an expert that several heads find is met once, with their weights added") {
  const auto made = layer_of("peer", {{"heads", 3}, {"k", 8}, {"d_key", 2}});
  const auto d = *made->forward(inputs(kTokens, kWidth), in_phase(Phase::evaluate)).decision;
  check_decision(d, kTokens, kExperts);
  CHECK(d.n_kept() < kTokens * 24);
  CHECK(d.n_kept() >= kTokens * 8);
  const auto sum_N = at::zeros({kTokens}, at::kDouble).index_add(0, d.token_R(), d.gate_R().detach());
  CHECK(difference(sum_N, at::full({kTokens}, 3.0, at::kDouble)) < 1e-12);
}

TEST_CASE("omni and peer: scale multiplies every weight and changes no choice") {
  for (const auto* name : {"omni", "peer"}) {
    CAPTURE(name);
    const auto x_ND = inputs(kTokens, kWidth);
    const auto one = *layer_of(name, {})->forward(x_ND, in_phase(Phase::evaluate)).decision;
    const auto five = *layer_of(name, {{"scale", 5.0}})->forward(x_ND, in_phase(Phase::evaluate)).decision;
    CHECK(five.expert_R().equal(one.expert_R()));
    CHECK(five.token_R().equal(one.token_R()));
    CHECK(difference(five.gate_R(), 5 * one.gate_R()) < 1e-12);
  }
}

TEST_CASE("omni and peer: statistics of the batch in training, running ones when evaluating, none from masked tokens") {
  for (const auto* name : {"omni", "peer"}) {
    CAPTURE(name);
    const auto made = layer_of(name, {});
    const auto x_ND = inputs(kTokens, kWidth);
    const auto mean = [&] { return weight(*made, "router.scorer.norm.mean").clone(); };
    const auto before = mean();
    made->forward(x_ND, in_phase(Phase::recompute));
    CHECK(difference(mean(), before) == 0);
    auto context = in_phase(Phase::train);
    context.mask_N = at::arange(kTokens).lt(6);
    const auto masked = made->forward(x_ND, context);
    CHECK(masked.y_ND.slice(0, 6).abs().max().item<double>() == 0);
    const auto table = std::string(name) == "omni" ? weight(*made, "router.scorer.key").view({2 * kSide, kWidth})
                                                   : weight(*made, "router.scorer.query");
    CHECK(difference(mean(), 0.1 * at::linear(x_ND.slice(0, 0, 6), table).mean(0)) < 1e-12);
    // A token is decided alone when evaluating.
    const auto all = made->forward(x_ND, in_phase(Phase::evaluate)).y_ND;
    CHECK(difference(made->forward(x_ND.slice(0, 3, 4), context_of(1)).y_ND, all.slice(0, 3, 4)) < 1e-12);
  }
}

TEST_CASE("omni and peer: parameters and work are counted as they are") {
  const auto omni = layer_of("omni", {{"k", 5}, {"d_shared", 3}, {"gated", true}})->facts();
  const double shared = 3 * 3 * kWidth, tables = 2 * kSide * kWidth;
  CHECK(omni.n_experts == kExperts);
  CHECK(omni.parameters_active == 5 * 3 * kWidth + shared + tables);
  CHECK(omni.flops_per_token == 2 * omni.parameters_active);
  CHECK(omni.is_causal);
  const auto peer = layer_of("peer", {{"heads", 2}, {"k", 3}, {"d_key", 5}})->facts();
  CHECK(peer.parameters_active == 6 * 2 * kWidth + 2 * 2 * 5 * (kWidth + kSide));
  CHECK(peer.flops_per_token == 2 * peer.parameters_active);
}

TEST_CASE("omni and peer: the number of experts is a square and not below k") {
  const auto says = [](const char* name, std::initializer_list<std::pair<std::string, Value>> fields) {
    return complaint([&] { make_layer({.name = name, .fields = table(fields)}, kWidth); });
  };
  CHECK(says("omni", {{"n_experts", 15}}).find("must be a square, as 1024 = 32 * 32, got 15") != std::string::npos);
  CHECK(says("omni", {{"n_experts", 16}, {"k", 17}}).find("k = 17 is more than the 16") != std::string::npos);
  CHECK(says("peer", {{"n_experts", 15}}).find("peer: n_experts must be a square") != std::string::npos);
}
