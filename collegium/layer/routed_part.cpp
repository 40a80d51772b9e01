#include "collegium/layer/routed_part.h"

#include <ATen/ATen.h>

namespace collegium::layer {

std::unique_ptr<Experts> make_experts(const Named& kind, int64_t n_experts, int64_t d_expert,
                                      const MoeLayer::Inputs& in, std::string_view stream) {
  return find(layer::experts(), kind, "expert")
      .make(kind, {.n_experts = n_experts,
                   .d_model = in.d_model,
                   .d_expert = d_expert,
                   .random = in.random.at(stream),
                   .options = in.options});
}

std::unique_ptr<route::Router> make_router(const Named& named, int64_t n_experts, const MoeLayer::Inputs& in,
                                           const Random& random) {
  return find(route::routers(), named, "router")
      .make(named, {.d_model = in.d_model,
                    .n_experts = n_experts,
                    .random = random,
                    .options = in.options,
                    .corpus = in.corpus});
}

RoutedPart::RoutedPart(const Named& expert, const Named& named_router, int64_t n_experts, int64_t d_expert,
                       const MoeLayer::Inputs& in)
    : experts(make_experts(expert, n_experts, d_expert, in)),
      router(make_router(named_router, n_experts, in, in.random.at("router"))) {}

route::Routing RoutedPart::route(const Tensor& x_ND, const route::Context& context) {
  auto here = context;
  here.experts = experts.get();
  return router->route(x_ND, here);
}

double RoutedPart::parameters_working() const {
  return experts->parameters_working(router->facts().choices_per_token);
}

LayerFacts routed_facts(const route::Router& router, double working) {
  const auto facts = router.facts();
  return {.n_experts = router.n_experts(),
          .parameters_active = working + facts.flops_per_token / 2,
          .flops_per_token = 2 * working + facts.flops_per_token,
          .is_causal = facts.is_causal,
          .reads_other_tokens = facts.reads_other_tokens,
          .needs = facts.needs};
}

void show_routing(LayerOutput& out, route::Routing& routing, const route::Context& context) {
  out.carried_NH = routing.scores.carried_NH;
  if (context.record) {
    if (routing.scores.score_NE.defined()) out.score_NE = routing.scores.score_NE.detach();
    if (routing.bias_E.defined()) out.bias_E = routing.bias_E.detach();
  }
  out.decision = std::move(routing.decision);
}

}  // namespace collegium::layer
