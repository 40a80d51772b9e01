// Work that papers promise not to do, counted: null experts (P087) take no operations, and the expert-router coupling
// loss (P072) costs the same however many tokens there are.
//
// N tokens, D model width, E experts, M null ones, K choices, I expert width.
#include "collegium/kernels/flops.h"
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::test;
using route::Phase;

std::unique_ptr<layer::MoeLayer> routed(int64_t D, int64_t E, int64_t I, const Table& router, at::ScalarType type,
                                        const char* dispatch = "fused") {
  const Named named{.name = "routed",
                    .fields = table({{"n_experts", E}, {"d_expert", I}, {"router", router}, {"dispatch", dispatch}})};
  return find(layer::layers(), named, "layer").make(named, {.d_model = D, .random = Random(1), .options = type});
}

double flops_of(const std::function<void()>& work) {
  const kernels::FlopCounter counter;
  work();
  return counter.flops();
}

// Tokens whose first feature is 1 choose null experts, those whose first feature is -1 true ones.
void steer(layer::MoeLayer& made, int64_t E) {
  const at::NoGradGuard no_grad;
  auto weight_XD = parameter(made, "router.scorer.weight");
  weight_XD.zero_();
  weight_XD.select(1, 0).slice(0, 0, E).fill_(-4);
  weight_XD.select(1, 0).slice(0, E).fill_(4);
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "null experts take no operations, and a token that has only them gets exactly nothing") {
  const int64_t N = 40, D = 8, E = 3, M = 4, K = 2, I = 5;
  const auto router = table({{"name", "ada_moe"}, {"k", K}, {"null_experts", M}});
  for (const auto type : {at::kFloat, at::kDouble})
    for (const auto* dispatch : {"fused", "loop"})
      for (const auto phase : {Phase::evaluate, Phase::train}) {
        CAPTURE(std::string(at::toString(type)));
        CAPTURE(dispatch);
        const auto made = routed(D, E, I, router, type, dispatch);
        steer(*made, E);
        const auto context = context_of(N, 1, phase);
        auto x_ND = numbers(Random(3), {N, D}, -1, 1, type);
        const auto scoring = 2.0 * N * D * (E + M);
        const at::NoGradGuard no_grad;

        x_ND.select(1, 0).fill_(1);
        Tensor y_ND;
        CHECK(flops_of([&] { y_ND = made->forward(x_ND, context).y_ND; }) == scoring);
        CHECK(y_ND.eq(0).all().item<bool>());

        // Every second token has K true experts instead: they alone are worked for.
        x_ND.select(1, 0).slice(0, 0, N, 2).fill_(-1);
        CHECK(flops_of([&] { y_ND = made->forward(x_ND, context).y_ND; }) == scoring + N / 2 * K * 6.0 * D * I);
        CHECK(y_ND.slice(0, 1, N, 2).eq(0).all().item<bool>());
        CHECK(y_ND.slice(0, 0, N, 2).ne(0).any(1).all().item<bool>());
      }
}

TEST_CASE_FIXTURE(OneThread, "erc: the coupling loss adds the same work to a training pass of any number of tokens") {
  const int64_t D = 12, E = 4, I = 6;
  const auto pass = [&](const Table& router, int64_t N, at::ScalarType type) {
    const auto made = routed(D, E, I, router, type);
    const auto x_ND = numbers(Random(3), {N, D}, -1, 1, type).requires_grad_(true);
    return flops_of([&] {
      const auto out = made->forward(x_ND, context_of(N, 1, Phase::train));
      auto objective = out.y_ND.sum();
      for (const auto& l : out.losses) objective = objective + l.value;
      objective.backward();
    });
  };
  for (const auto type : {at::kFloat, at::kDouble}) {
    CAPTURE(std::string(at::toString(type)));
    for (const int64_t N : {16, 160, 1600}) {
      CAPTURE(N);
      const auto with = pass(table({{"name", "erc"}, {"balance_loss", 0.0}}), N, type);
      const auto without = pass(table({{"name", "top_k"}, {"balance_loss", 0.0}, {"z_loss", 0.0}}), N, type);
      // Each of E embeddings through the two projections of each of E experts, and twice that on the way back.
      CHECK(with - without == 3 * 2.0 * E * E * D * 2 * I);
    }
  }
}
