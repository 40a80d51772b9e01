#include "collegium/layer/routed_part.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "collegium/layer/expert_pool.h"
#include "collegium/layer/show_choice.h"

namespace collegium::layer {

std::unique_ptr<Experts> make_experts(const Named& kind, int64_t n_experts, int64_t d_expert,
                                      const MoeLayer::Inputs& in, std::string_view stream, int64_t n_together) {
  return find(layer::experts(), kind, "expert")
      .make(kind, {.n_experts = n_experts,
                   .d_model = in.d_model,
                   .d_expert = d_expert,
                   .n_together = n_together,
                   .random = in.random.at(stream),
                   .options = in.options});
}

std::unique_ptr<route::Router> make_router(const Named& named, int64_t n_experts, const MoeLayer::Inputs& in,
                                           const Random& random, int64_t n_own) {
  return find(route::routers(), named, "router")
      .make(named, {.d_model = in.d_model,
                    .n_experts = n_experts,
                    .random = random,
                    .options = in.options,
                    .corpus = in.corpus,
                    .n_own = n_own,
                    .shared = in.shared});
}

void require_answers(const route::Router& router, const Named& named_router, const route::ExpertProbe& probe,
                     const Named& expert) {
  const auto missing = router.facts().needs.missing(
      {.token_ids = true, .attention = true, .experts = true, .unit_predictions = probe.predicts_units()});
  require(missing.empty(), "router '", named_router.name, "' needs ", missing, ", which experts of the kind '",
          expert.name, "' do not give here");
}

RoutedPart::RoutedPart(const Named& expert, const Named& named_router, int64_t n_experts, int64_t d_expert,
                       const MoeLayer::Inputs& in, int64_t n_together, ExpertPool* pool)
    : n_candidates_(pool ? pool->n_members() * n_experts : n_experts) {
  if (pool) {
    auto share = pool->join(expert, n_experts, d_expert, in, n_together);
    experts = std::move(share.experts), first_ = share.first, lists_experts_ = share.is_holder;
  } else {
    experts = make_experts(expert, n_experts, d_expert, in, "experts", n_together);
  }
  router = make_router(named_router, n_candidates_, in, in.random.at("router"), pool ? n_experts : 0);
  require_answers(*router, named_router, *experts, expert);
}

namespace {

// The experts as a router numbers them that counts from its own.
class TurnedProbe final : public route::ExpertProbe {
 public:
  TurnedProbe(route::ExpertProbe& of, int64_t first, int64_t n) : of_(of), first_(first), n_(n) {}
  Tensor one(const Tensor& x_RD, int64_t expert) override { return of_.one(x_RD, (expert + first_) % n_); }
  Tensor hidden(const Tensor& x_RD, int64_t expert) override { return of_.hidden(x_RD, (expert + first_) % n_); }
  route::UnitPrediction predict_units(const Tensor& x_ND, int64_t) override {
    const auto all = of_.predict_units(x_ND, n_);
    return {at::roll(all.mean_NE, -first_, 1), at::roll(all.variance_NE, -first_, 1)};
  }
  bool predicts_units() const override { return of_.predicts_units(); }

 private:
  route::ExpertProbe& of_;
  int64_t first_, n_;
};

}  // namespace

route::Routing RoutedPart::route(const Tensor& x_ND, const route::Context& context) {
  auto here = context;
  here.experts = experts.get();
  if (first_ == 0) return router->route(x_ND, here);
  TurnedProbe turned(*experts, first_, n_candidates_);
  here.experts = &turned;
  auto routing = router->route(x_ND, here);
  routing.decision = routing.decision.turned(first_);
  const auto turn = [&](Tensor& t, int64_t dim) {
    if (t.defined()) t = at::roll(t, first_, dim);
  };
  turn(routing.scores.logit_NE, 1), turn(routing.scores.score_NE, 1), turn(routing.scores.open_NE, 1);
  turn(routing.scores.prototype_ED, 0), turn(routing.bias_E, 0);
  auto& why = routing.reasons;
  turn(why.compared_NE, 1), turn(why.turns_at_NE, 1), turn(why.group_taken_NE, 1);
  if (!why.group_E.empty()) std::rotate(why.group_E.rbegin(), why.group_E.rbegin() + first_, why.group_E.rend());
  return routing;
}

void RoutedPart::collect(ParameterList& list) {
  list.child("router", *router);
  if (lists_experts_) list.child("experts", *experts);
}

double RoutedPart::parameters_working() const {
  return experts->parameters_working(router->facts().choices_per_token);
}

LayerFacts routed_facts(const route::Router& router, double working) {
  const auto facts = router.facts();
  return {.n_experts = router.n_experts(),
          .parameters_active = working + facts.flops_per_token / 2,
          .flops_per_token = 2 * working + facts.flops_per_token,
          .flops_per_pair = facts.flops_per_pair,
          .is_causal = facts.is_causal,
          .reads_other_tokens = facts.reads_other_tokens,
          .needs = facts.needs,
          .n_null = facts.n_null,
          .fixed_choices = facts.fixed_choices};
}

void show_routing(LayerOutput& out, route::Routing& routing, const route::Context& context) {
  out.carried_NH = routing.scores.carried_NH;
  show_choice(out, routing, context);
}

}  // namespace collegium::layer
