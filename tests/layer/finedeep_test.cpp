// Finedeep against its equations written out, and against the dense layer it is cut from.
//
// N tokens, D model width, M sub-layers, K experts in each, I hidden width of one expert.
#include <cmath>

#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 7, kWidth = 6, kExperts = 3;

std::unique_ptr<MoeLayer> finedeep(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "finedeep", .fields = fields}, kWidth);
}

Tensor written_out(MoeLayer& made, const Tensor& x_ND, int64_t M, const std::string& guide,
                   const std::string& function) {
  const auto router_MKD = parameter(made, "router");
  auto state_ND = x_ND;
  for (int64_t j = 0; j < M; ++j) {
    auto h_ND = state_ND;
    if (j > 0)
      h_ND = state_ND / (state_ND.square().mean(1, true) + 1e-5).sqrt() * parameter(made, "norm")[j - 1].unsqueeze(0);
    const auto gate_up = parameter(made, text("sublayers.", j, ".gate_up"));
    const auto down = parameter(made, text("sublayers.", j, ".down"));
    std::vector<Tensor> answers, logits;
    for (int64_t i = 0; i < kExperts; ++i) {
      answers.push_back(swiglu(h_ND, gate_up[i], down[i]));
      logits.push_back(((guide == "output" ? answers.back() : h_ND) * router_MKD[j][i]).sum(1));
    }
    const auto logit_NK = at::stack(logits, 1);
    const auto weight_NK = function == "sigmoid" ? logit_NK.sigmoid() : logit_NK.softmax(1);
    for (int64_t i = 0; i < kExperts; ++i)
      state_ND = state_ND + weight_NK.slice(1, i, i + 1) * answers[static_cast<size_t>(i)];
  }
  return state_ND - x_ND;
}

}  // namespace

TEST_CASE("finedeep: the paper's equations, with each way to weigh") {
  for (const int64_t M : {1, 2, 4})
    for (const char* guide : {"output", "input"})
      for (const char* function : {"sigmoid", "softmax"}) {
        CAPTURE(M);
        CAPTURE(guide);
        CAPTURE(function);
        const auto made = finedeep({{"n_sublayers", M}, {"guide", guide}, {"function", function}});
        scale_parameters(*made, 2);
        const auto x_ND = inputs(kTokens, kWidth).requires_grad_(true);
        const auto run = [&](const std::function<Tensor()>& forward) {
          return values_and_gradients(*made, x_ND, forward, Unused::refused);
        };
        const auto fast = run([&] { return made->forward(x_ND, context_of(kTokens)).y_ND; });
        const auto plain = run([&] { return written_out(*made, x_ND, M, guide, function); });
        for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < 1e-10);
      }
}

TEST_CASE("finedeep: one sub-layer is the dense layer's pieces, each by its weight") {
  // A router of zeros weighs every expert by one half: then the pieces add up to half of the dense layer.
  const auto made = finedeep({{"n_sublayers", 1}});
  const auto dense = make_layer({.name = "dense"}, kWidth);
  const at::NoGradGuard no_grad;
  parameter(*made, "router").zero_();
  const auto gate_up = parameter(*dense, "network.gate_up")[0], down = parameter(*dense, "network.down")[0];
  const auto I = down.size(1) / kExperts;
  for (int64_t i = 0; i < kExperts; ++i) {
    const auto gate = gate_up.slice(0, i * I, (i + 1) * I);
    const auto up = gate_up.slice(0, (kExperts + i) * I, (kExperts + i + 1) * I);
    parameter(*made, "sublayers.0.gate_up")[i].copy_(at::cat({gate, up}));
    parameter(*made, "sublayers.0.down")[i].copy_(down.slice(1, i * I, (i + 1) * I));
  }
  const auto x_ND = inputs(kTokens, kWidth);
  CHECK(difference(2 * made->forward(x_ND, context_of(kTokens)).y_ND, dense->forward(x_ND, context_of(kTokens)).y_ND) <
        1e-12);
}

TEST_CASE("finedeep: parameters and work of the dense layer, and a little for the router") {
  const auto dense = make_layer({.name = "dense"}, kWidth)->facts();
  const auto facts = finedeep({{"n_sublayers", 4}, {"n_experts", 2}})->facts();
  CHECK(facts.parameters_active == dense.parameters_active + 8 * kWidth + 3 * kWidth);
  CHECK(facts.flops_per_token == dense.flops_per_token + 4 * 8 * kWidth);
  CHECK(facts.n_experts == 8);
  CHECK(complaint([] { finedeep({{"n_sublayers", 5}}); }).find("24 does not divide into 5 * 3") != std::string::npos);
}

TEST_CASE("finedeep: a recorded pass shows the weights of all sub-layers' experts and what their units do") {
  const auto made = finedeep();
  auto context = context_of(kTokens);
  context.mask_N = at::arange(kTokens).ne(2);
  context.record = true;
  const auto out = made->forward(inputs(kTokens, kWidth), context);
  REQUIRE(out.decision);
  check_decision(*out.decision, kTokens, 2 * kExperts, context.mask_N);
  CHECK(out.decision->n_kept() == 6 * 2 * kExperts);
  CHECK(out.score_NE.lt(1).logical_and(out.score_NE.gt(0)).all().item<bool>());
  CHECK(out.statistics.size() == 3);
  CHECK(out.statistics[0].weight == 6 * 4 * kWidth);
  CHECK(out.y_ND[2].abs().max().item<double>() == 0);
}
