// Options of the routed layer: how shared experts join, and fine-grained segmentation.
//
// N tokens, D model width, E experts, I hidden width of one expert.
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kTokens = 9, kWidth = 6, kExperts = 4;

std::unique_ptr<MoeLayer> routed(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  auto fields = table({{"n_experts", kExperts}, {"d_expert", 4}});
  for (const auto& [key, value] : more) fields.set(key, value);
  return make_layer({.name = "routed", .fields = fields}, kWidth);
}

Tensor output(MoeLayer& made, const Tensor& x_ND) {
  return made.forward(x_ND, context_of(x_ND.size(0))).y_ND.detach();
}

// What the shared experts answer alone.
Tensor shared(MoeLayer& made, const Tensor& x_ND) {
  return swiglu(x_ND, weight(made, "shared.gate_up")[0], weight(made, "shared.down")[0]);
}

}  // namespace

TEST_CASE("routed: shared experts join as they say") {
  const auto x_ND = inputs(kTokens, kWidth);
  const auto alone_ND = output(*routed(), x_ND);  // the same experts and router: streams have names
  const at::NoGradGuard no_grad;
  for (const char* mix : {"added", "gated", "averaged", "softmax"}) {
    CAPTURE(mix);
    const auto made = routed({{"n_shared", 3}, {"shared_mix", mix}});
    const auto shared_ND = shared(*made, x_ND);
    const std::string which = mix;
    if (which == "added") CHECK(difference(output(*made, x_ND), alone_ND + shared_ND) < 1e-12);
    if (which == "averaged") CHECK(difference(output(*made, x_ND), alone_ND * 2 / 5 + shared_ND * 3 / 5) < 1e-12);
    if (which == "gated") {
      CHECK(difference(output(*made, x_ND), alone_ND + shared_ND / 2) < 1e-12);
      parameter(*made, "shared_mix").copy_(inputs(1, kWidth, 11) * 3);
      const auto gate_N1 = at::linear(x_ND, parameter(*made, "shared_mix")).sigmoid();
      CHECK(difference(output(*made, x_ND), alone_ND + gate_N1 * shared_ND) < 1e-12);
    }
    if (which == "softmax") {
      CHECK(difference(output(*made, x_ND), (alone_ND + shared_ND) / 2) < 1e-12);
      parameter(*made, "shared_mix").copy_(inputs(2, kWidth, 12) * 3);
      const auto share_N2 = at::linear(x_ND, parameter(*made, "shared_mix")).softmax(1);
      CHECK(difference(output(*made, x_ND), share_N2.slice(1, 0, 1) * alone_ND + share_N2.slice(1, 1, 2) * shared_ND) <
            1e-12);
    }
  }
  CHECK(complaint([] { routed({{"shared_mix", "gated"}}); }).find("needs shared experts") != std::string::npos);
}

TEST_CASE("routed: the weights of the shared experts' gate are counted") {
  const auto plain = routed({{"n_shared", 1}})->facts();
  const auto gated = routed({{"n_shared", 1}, {"shared_mix", "gated"}})->facts();
  const auto pair = routed({{"n_shared", 1}, {"shared_mix", "softmax"}})->facts();
  CHECK(gated.parameters_active == plain.parameters_active + kWidth);
  CHECK(gated.flops_per_token == plain.flops_per_token + 2 * kWidth);
  CHECK(pair.parameters_active == plain.parameters_active + 2 * kWidth);
}

TEST_CASE("routed: an expert cut into pieces that all work is the whole expert") {
  const int64_t m = 4;
  const auto all = table({{"name", "stages"}, {"selector", table({{"name", "top_k"}, {"k", 1}})}, {"gate", "one"}});
  const auto whole = routed({{"n_experts", 1}, {"router", all}});
  const auto pieces = routed({{"n_experts", 1}, {"router", all}, {"segments", m}});
  const at::NoGradGuard no_grad;
  const auto gate_up = parameter(*whole, "experts.gate_up")[0], down = parameter(*whole, "experts.down")[0];
  const auto I = down.size(1), part = I / m;
  for (int64_t i = 0; i < m; ++i) {
    const auto gate = gate_up.slice(0, i * part, (i + 1) * part),
               up = gate_up.slice(0, I + i * part, I + (i + 1) * part);
    parameter(*pieces, "experts.gate_up")[i].copy_(at::cat({gate, up}));
    parameter(*pieces, "experts.down")[i].copy_(down.slice(1, i * part, (i + 1) * part));
  }
  // The router's weights sum to one, so each of the pieces has 1 / m.
  const auto x_ND = inputs(kTokens, kWidth);
  CHECK(difference(static_cast<double>(m) * output(*pieces, x_ND), output(*whole, x_ND)) < 1e-12);
  CHECK(pieces->facts().n_experts == m);
}

TEST_CASE("routed: segments keep parameters and work, and multiply the router's choices") {
  const auto router = table({{"name", "top_k"}, {"k", 2}});
  const auto whole = routed({{"router", router}}), cut = routed({{"router", router}, {"segments", 2}});
  const auto routing = static_cast<double>(kExperts * kWidth);  // twice as many experts to score
  CHECK(cut->facts().parameters_active == whole->facts().parameters_active + routing);
  CHECK(cut->facts().n_experts == 2 * kExperts);
  const auto d = *cut->forward(inputs(kTokens, kWidth), context_of(kTokens)).decision;
  CHECK(d.n_kept() == 4 * kTokens);
  // The default k is known without being written.
  CHECK(routed({{"segments", 4}})->forward(inputs(kTokens, kWidth), context_of(kTokens)).decision->n_kept() ==
        8 * kTokens);
  CHECK(complaint([] { routed({{"segments", 3}}); }).find("do not divide into segments = 3") != std::string::npos);
  CHECK(complaint([] {
          routed({{"segments", 2}, {"router", table({{"name", "relu"}})}});
        }).find("router 'relu' has no k to multiply") != std::string::npos);
}
