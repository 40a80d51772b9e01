#include "collegium/route/router.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace collegium::route {
namespace {

std::string kinds_text(const std::vector<ScoreKind>& kinds) {
  std::vector<std::string> names;
  for (const auto kind : kinds) names.emplace_back(enum_names(kind)[static_cast<size_t>(kind)]);
  return join(names, " or ");
}

void check_scores(const Needs& needs, ScoreKind given, const std::string& who, const std::string& scorer) {
  if (needs.scores.empty()) return;
  if (std::find(needs.scores.begin(), needs.scores.end(), given) != needs.scores.end()) return;
  const auto has = given == ScoreKind::none ? std::string("no scores")
                                            : text(enum_names(given)[static_cast<size_t>(given)], " scores");
  throw Error(ErrorKind::usage,
              text("router: '", who, "' needs ", kinds_text(needs.scores), " scores, but scorer '", scorer, "' gives ", has));
}

}  // namespace

void Composition::visit(Fields& field) {
  field("scorer", scorer, {.help = "how well each expert suits each token", .catalogue = "scorers"});
  field("selector", selector, {.help = "who is chosen", .catalogue = "selectors"});
  field("capacity", capacity, {.help = "room per expert, and what happens without it", .catalogue = "capacities"});
  field("gate", gate, {.help = "how much each chosen expert counts", .catalogue = "gates"});
  field("balancers", balancers, {.help = "losses and biases that spread the load", .catalogue = "balancers"});
}

Router::Router(Stages stages, int64_t n_experts) : stages_(std::move(stages)), n_experts_(n_experts) {
  require(n_experts_ >= 1, "router: at least one expert is needed, got ", n_experts_);
  auto& s = stages_;
  ensure(s.scorer && s.selector && s.capacity && s.gate, "a router needs all of its stages");
  s.names.resize(4 + s.balancers.size(), "(unnamed)");
  const auto given = s.scorer->kind();
  check_scores(s.selector->needs(), given, s.names[1], s.names[0]);
  check_scores(s.capacity->needs(), given, s.names[2], s.names[0]);
  check_scores(s.gate->needs(), given, s.names[3], s.names[0]);
  for (size_t i = 0; i < s.balancers.size(); ++i) {
    const auto needs = s.balancers[i]->needs();
    check_scores(needs, given, s.names[4 + i], s.names[0]);
    require(!needs.selection_bias || s.selector->claims().reads_bias, "router: balancer '", s.names[4 + i],
            "' moves a selection bias, but selector '", s.names[1], "' reads none");
  }
  require(!(s.selector->claims().chooser == Chooser::expert && s.capacity->claims().may_drop), "router: selector '",
          s.names[1], "' already gives each expert a fixed number of tokens; capacity '", s.names[2],
          "' must be 'unlimited'");
}

std::unique_ptr<Router> Router::compose(const Composition& composition, const Inputs& inputs, std::string_view path) {
  const auto placed = [&](Named named, std::string_view key) {
    if (named.path.empty()) named.path = path.empty() ? std::string(key) : text(path, ".", key);
    return named;
  };
  auto resolved = composition;
  Stages stages;
  const auto build = [&]<class Stage>(Entries<Stage> all, Named& named, std::string_view what, std::string_view stream) {
    named = placed(named, what);
    const auto& found = find(all, named, what);
    auto below = inputs;
    below.random = inputs.random.at(stream);
    auto made = found.make(named, below);
    named.fields = found.resolve(named);
    return made;
  };
  stages.scorer = build(scorers(), resolved.scorer, "scorer", "scorer");
  stages.selector = build(selectors(), resolved.selector, "selector", "selector");
  stages.capacity = build(capacities(), resolved.capacity, "capacity", "capacity");
  stages.gate = build(gates(), resolved.gate, "gate", "gate");
  stages.names = {resolved.scorer.name, resolved.selector.name, resolved.capacity.name, resolved.gate.name};
  for (auto& balancer : resolved.balancers) {
    stages.balancers.push_back(build(balancers(), balancer, "balancer", text("balancer.", stages.balancers.size())));
    stages.names.push_back(balancer.name);
  }
  auto router = std::make_unique<Router>(std::move(stages), inputs.n_experts);
  router->composition_ = std::move(resolved);
  return router;
}

Routing Router::route(const Tensor& x_ND, const Context& context) {
  require(x_ND.dim() == 2, "router: x must be [tokens, d_model], got ", x_ND.sizes());
  auto& s = stages_;
  require(!s.selector->needs().token_ids || context.token_id_N.defined(), "router: selector '", s.names[1],
          "' needs token ids, and none were given");
  require(!s.scorer->needs().token_ids || context.token_id_N.defined(), "router: scorer '", s.names[0],
          "' needs token ids, and none were given");
  const auto check_length = [&](const Tensor& t_N, std::string_view what) {
    if (!t_N.defined()) return;
    require(t_N.dim() == 1 && t_N.size(0) == x_ND.size(0), "router: ", what,
            " must have one entry a token, [", x_ND.size(0), "], got ", t_N.sizes());
  };
  check_length(context.mask_N, "the mask");
  check_length(context.token_id_N, "token ids");
  check_length(context.sequence_N, "sequence ids");
  Tensor bias_E;
  for (const auto& balancer : s.balancers)
    if (const auto more_E = balancer->bias_E(); more_E.defined()) bias_E = bias_E.defined() ? bias_E + more_E : more_E;

  Routing out;
  out.scores = s.scorer->score(x_ND, context);
  out.scores.n_tokens = x_ND.size(0), out.scores.n_experts = n_experts_;
  out.scores.kind = s.scorer->kind();
  const auto asked = Decision::make(s.selector->select(out.scores, bias_E, context), x_ND.size(0), n_experts_);
  const auto placed = s.capacity->apply(asked, out.scores, context);
  out.decision = placed.with_gates(s.gate->weigh(out.scores, placed, context));
  for (const auto& balancer : s.balancers) {
    for (auto& term : balancer->loss(out.scores, out.decision, context)) out.losses.push_back(std::move(term));
    if (context.phase == Phase::train) balancer->observe(out.decision, context);
  }
  return out;
}

void Router::step() {
  for (const auto& balancer : stages_.balancers) balancer->step();
}

RouterFacts Router::facts() const {
  const auto selector = stages_.selector->claims();
  const auto capacity = stages_.capacity->claims();
  return {.chooser = selector.chooser,
          .is_exactly_balanced = selector.is_exactly_balanced,
          .may_drop = capacity.may_drop,
          // A capacity that is a share of what is asked depends on later tokens where their number of choices does.
          .is_causal = selector.is_causal && capacity.is_causal && (!capacity.may_drop || selector.asks_fixed_number),
          .needs_token_ids = stages_.selector->needs().token_ids || stages_.scorer->needs().token_ids,
          .choices_per_token = stages_.selector->choices_per_token(),
          .flops_per_token = stages_.scorer->flops_per_token()};
}

void Router::collect(ParameterList& list) {
  list.child("scorer", *stages_.scorer);
  list.child("selector", *stages_.selector);
  list.child("gate", *stages_.gate);
  for (size_t i = 0; i < stages_.balancers.size(); ++i) list.child(text("balancers.", i), *stages_.balancers[i]);
}

}  // namespace collegium::route
