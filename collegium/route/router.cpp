#include "collegium/route/router.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "collegium/route/score_function.h"

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
  throw Error(ErrorKind::usage, text("router: '", who, "' needs ", kinds_text(needs.scores), " scores, but scorer '",
                                     scorer, "' gives ", has));
}

}  // namespace

void Composition::visit(Fields& field) {
  field("scorer", scorer, {.help = "how well each expert suits each token", .catalogue = "scorers"});
  field("selector", selector, {.help = "who is chosen", .catalogue = "selectors"});
  field("capacity", capacity, {.help = "room per expert, and what happens without it", .catalogue = "capacities"});
  field("gate", gate, {.help = "how much each chosen expert counts", .catalogue = "gates"});
  field("balancers", balancers, {.help = "losses and biases that spread the load", .catalogue = "balancers"});
  field("null_experts", null_experts,
        {.help = "experts that do no work: a token that chooses them works less", .unit = "experts", .min = 0});
}

void Composition::add_loss(std::string_view name, double coefficient) {
  if (coefficient > 0)
    balancers.push_back({.name = std::string(name), .fields = table({{"coefficient", coefficient}})});
}

Router::Router(Stages stages, int64_t n_experts, int64_t n_null)
    : stages_(std::move(stages)), n_experts_(n_experts), n_null_(n_null) {
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
    require(!needs.prototypes || s.scorer->has_prototypes(), "router: balancer '", s.names[4 + i],
            "' needs an embedding for each expert, but scorer '", s.names[0], "' has none");
  }
  const auto moves_bias = [](const auto& balancer) { return balancer->needs().selection_bias; };
  require(std::count_if(s.balancers.begin(), s.balancers.end(), moves_bias) <= 1,
          "router: two balancers move the same selection bias; one of them must go");
  require(!s.gate->needs().expert_choice || s.selector->claims().chooser == Chooser::expert, "router: gate '",
          s.names[3], "' weighs what an expert chose, but selector '", s.names[1], "' lets ",
          s.selector->claims().chooser == Chooser::token ? "tokens" : "nobody", " choose");
  require(n_null_ == 0 || s.selector->claims().chooser == Chooser::token,
          "router: null experts are chosen by tokens, but selector '", s.names[1], "' lets ",
          s.selector->claims().chooser == Chooser::expert ? "experts" : "nobody", " choose");
  if (s.scorer->claims().closes_experts) {
    const auto check_closed = [&](bool respects, std::string_view what, const std::string& who) {
      require(respects, "router: scorer '", s.names[0], "' closes experts to some tokens, but ", what, " '", who,
              "' may give them all the same");
    };
    check_closed(s.selector->claims().respects_closed, "selector", s.names[1]);
    check_closed(s.capacity->claims().respects_closed, "capacity", s.names[2]);
  }
  needs_ =
      s.scorer->needs().context | s.selector->needs().context | s.capacity->needs().context | s.gate->needs().context;
  for (const auto& balancer : s.balancers) needs_ = needs_ | balancer->needs().context;
  require(!(s.selector->claims().chooser == Chooser::expert && s.capacity->claims().may_drop), "router: selector '",
          s.names[1], "' already gives each expert a fixed number of tokens; capacity '", s.names[2],
          "' must be 'unlimited'");
}

namespace {

// Builds the stages of one composition and writes every field of theirs into it.
class Builder {
 public:
  Builder(Composition& composition, const StageInputs& inputs, std::string_view path)
      : composition_(composition), inputs_(inputs), path_(path) {}

  template <class Stage>
  std::unique_ptr<Stage> build(Entries<Stage> all, Named& named, std::string_view what, std::string_view stream) const {
    if (named.path.empty()) named.path = path_.empty() ? std::string(what) : text(path_, ".", what);
    const auto& found = find(all, named, what);
    auto below = inputs_;
    below.n_experts += composition_.null_experts, below.n_null = composition_.null_experts;
    below.random = inputs_.random.at(stream);
    auto made = found.make(named, below);
    named.fields = found.resolve(named);
    return made;
  }

  // All but the scorer.
  Stages stages_around(std::unique_ptr<Scorer> scorer, std::string_view scorer_name) const {
    auto& c = composition_;
    Stages out{.scorer = std::move(scorer)};
    out.selector = build(selectors(), c.selector, "selector", "selector");
    out.capacity = build(capacities(), c.capacity, "capacity", "capacity");
    out.gate = build(gates(), c.gate, "gate", "gate");
    out.names = {std::string(scorer_name), c.selector.name, c.capacity.name, c.gate.name};
    for (auto& balancer : c.balancers) {
      out.balancers.push_back(build(balancers(), balancer, "balancer", text("balancer.", out.balancers.size())));
      out.names.push_back(balancer.name);
    }
    return out;
  }

 private:
  Composition& composition_;
  const StageInputs& inputs_;
  std::string_view path_;
};

}  // namespace

std::unique_ptr<Router> Router::compose(const Composition& composition, const Inputs& inputs, std::string_view path) {
  auto resolved = composition;
  const Builder builder(resolved, inputs, path);
  auto scorer = builder.build(scorers(), resolved.scorer, "scorer", "scorer");
  auto router = std::make_unique<Router>(builder.stages_around(std::move(scorer), resolved.scorer.name),
                                         inputs.n_experts, composition.null_experts);
  router->composition_ = std::move(resolved);
  return router;
}

std::unique_ptr<Router> Router::compose(std::unique_ptr<Scorer> scorer, std::string_view scorer_name,
                                        const Composition& composition, const Inputs& inputs) {
  auto resolved = composition;
  return std::make_unique<Router>(Builder(resolved, inputs, "").stages_around(std::move(scorer), scorer_name),
                                  inputs.n_experts, composition.null_experts);
}

Routing Router::route(const Tensor& x_ND, const Context& context) {
  require(x_ND.dim() == 2, "router: x must be [tokens, d_model], got ", x_ND.sizes());
  auto& s = stages_;
  const auto missing = needs_.missing(given(context));
  require(missing.empty(), "router: its stages need ", missing, ", and none were given (", stages_with_needs(), ")");
  const auto check_length = [&](const Tensor& t_N, std::string_view what) {
    if (!t_N.defined()) return;
    require(t_N.dim() == 1 && t_N.size(0) == x_ND.size(0), "router: ", what, " must have one entry a token, [",
            x_ND.size(0), "], got ", t_N.sizes());
  };
  check_length(context.mask_N, "the mask");
  check_length(context.token_id_N, "token ids");
  check_length(context.sequence_N, "sequence ids");
  Tensor bias_E;
  for (const auto& balancer : s.balancers)
    if (const auto more_E = balancer->bias_E(); more_E.defined()) bias_E = bias_E.defined() ? bias_E + more_E : more_E;

  Routing out;
  out.bias_E = bias_E;
  Decision asked;
  PlaceRule places;
  if (!route_at_once(x_ND, context, out)) {
    out.scores = s.scorer->score(x_ND, context);
    out.scores.n_tokens = x_ND.size(0), out.scores.n_experts = n_experts_ + n_null_;
    out.scores.kind = s.scorer->kind();
    if (context.routing_noise > 0) disturb(out.scores, context.routing_noise, context.random.at("routing noise"));
    asked = Decision::make(s.selector->select(out.scores, bias_E, context), x_ND.size(0), n_experts_ + n_null_);
    const auto working = n_null_ > 0 ? asked.only_experts(n_experts_) : asked;
    const auto placed = s.capacity->apply(working, out.scores, context);
    if (context.explain) places = s.capacity->places(working);
    out.decision = placed.with_gates(s.gate->weigh(out.scores, placed, context));
  }
  if (context.explain) {
    out.reasons = s.selector->reasons(out.scores, bias_E, context);
    out.reasons.places = std::move(places);
    if (out.scores.open_NE.defined() && s.scorer->needs().context.token_ids) out.reasons.rule += ": its id says which";
  }
  if (context.losses) out.losses = std::move(out.scores.losses);
  // Balancers see the choices of null experts, too: their share is what steers how much a token works.
  const auto& seen = n_null_ > 0 ? asked : out.decision;
  for (const auto& balancer : s.balancers) {
    if (context.losses)
      for (auto& term : balancer->loss(out.scores, seen, context)) out.losses.push_back(std::move(term));
    if (context.phase == Phase::train) balancer->observe(seen, context);
  }
  return out;
}

// Scores, choices, their order and their weights in two passes over the tokens instead of one or more for each stage,
// to the same bit.
bool Router::route_at_once(const Tensor& x_ND, const Context& context, Routing& out) {
  auto& s = stages_;
  const auto rule = s.selector->choice_rule();
  const auto weight = s.gate->choice_weight();
  const auto kind = s.scorer->kind();
  const auto weight_ED = s.scorer->linear_weight();
  if (!rule || !weight || !s.capacity->keeps_all() || n_null_ > 0 || !weight_ED.defined()) return false;
  if (kind != ScoreKind::softmax && kind != ScoreKind::sigmoid) return false;
  if (context.phase != Phase::evaluate || context.mask_N.defined() || context.routing_noise > 0) return false;
  if (at::GradMode::is_enabled() && (x_ND.requires_grad() || weight_ED.requires_grad())) return false;
  const auto dtype = router_dtype(x_ND);
  const auto input_ND = x_ND.to(dtype), prototype_ED = weight_ED.to(dtype);
  if (!kernels::has_routed_top_k(input_ND, prototype_ED)) return false;
  const auto function = kind == ScoreKind::softmax ? kernels::ScoreFunction::softmax : kernels::ScoreFunction::sigmoid;
  auto done = kernels::routed_top_k(input_ND, prototype_ED, function, *rule, out.bias_E, *weight);
  out.scores.logit_NE = done.scores.logit_NE, out.scores.score_NE = done.scores.score_NE;
  out.scores.prototype_ED = prototype_ED, out.scores.kind = kind;
  out.scores.n_tokens = x_ND.size(0), out.scores.n_experts = n_experts_;
  out.decision = Decision::of_sorted(std::move(done.rows), x_ND.size(0), n_experts_).with_gates(done.gate_R);
  return true;
}

std::string Router::stages_with_needs() const {
  std::vector<std::string> words;
  const auto add = [&](std::string_view what, const std::string& name, const Needs& needs) {
    if (const auto all = needs.context.missing({}); !all.empty()) words.push_back(text(what, " '", name, "': ", all));
  };
  add("scorer", stages_.names[0], stages_.scorer->needs());
  add("selector", stages_.names[1], stages_.selector->needs());
  add("capacity", stages_.names[2], stages_.capacity->needs());
  add("gate", stages_.names[3], stages_.gate->needs());
  for (size_t i = 0; i < stages_.balancers.size(); ++i)
    add("balancer", stages_.names[4 + i], stages_.balancers[i]->needs());
  return join(words, "; ");
}

void Router::step() {
  stages_.scorer->step();
  for (const auto& balancer : stages_.balancers) balancer->step();
}

bool Router::weighs_scores() const {
  const auto selector = stages_.selector->claims();
  // A capacity that looks ahead may fill free slots, so that a token ends with more than it asked for.
  const bool is_fixed = selector.chooser == Chooser::token && selector.asks_fixed_number && n_null_ == 0 &&
                        stages_.capacity->claims().is_causal;
  return stages_.gate->weighs_scores(is_fixed ? stages_.selector->choices_per_token() : 0);
}

std::string Router::untaught() const {
  const auto trains_scores = [&] {
    for (const auto& p : parameters_of(*stages_.scorer))
      if (p.trained() && p.tensor->requires_grad()) return true;
    return false;
  };
  if (weighs_scores() || !stages_.scorer->claims().learns_from_task || !trains_scores()) return "";
  return text("its scorer '", stages_.names[0], "' learns nothing from the task, for its gate '", stages_.names[3],
              "' gives the same weight whatever the scores", stages_.gate->weighs_scores(2) ? " of one choice are" : "",
              "; gate 'score' (as in router 'switch') would teach it");
}

RouterFacts Router::facts() const {
  const auto selector = stages_.selector->claims();
  const auto capacity = stages_.capacity->claims();
  const auto scorer = stages_.scorer->claims();
  // A capacity that is a share of what is asked depends on later tokens where their number of choices does.
  const bool is_causal = scorer.is_causal && selector.is_causal && capacity.is_causal &&
                         (!capacity.may_drop || (selector.asks_fixed_number && !scorer.closes_experts && n_null_ == 0));
  const auto working = static_cast<double>(n_experts_) / static_cast<double>(n_experts_ + n_null_);
  const bool is_fixed = selector.chooser != Chooser::expert && selector.asks_fixed_number && !scorer.closes_experts;
  return {.chooser = selector.chooser,
          .is_exactly_balanced = selector.is_exactly_balanced,
          .may_drop = capacity.may_drop,
          .is_causal = is_causal,
          .is_causal_in_training = is_causal && scorer.is_causal_in_training && selector.is_causal_in_training,
          .chooses_any_set = selector.chooses_any_set && !scorer.closes_experts,
          .is_random = selector.is_random,
          .reads_other_tokens = scorer.reads_other_tokens || selector.reads_other_tokens,
          .learns_from_task = scorer.learns_from_task && weighs_scores(),
          .needs = needs_,
          // Of even choices, the null experts' share is no work.
          .choices_per_token = stages_.selector->choices_per_token() * working,
          .flops_per_token = stages_.scorer->flops_per_token(),
          .flops_per_pair = stages_.scorer->flops_per_pair(),
          .n_null = n_null_,
          .fixed_choices = is_fixed ? stages_.selector->choices_per_token() : 0};
}

void Router::collect(ParameterList& list) {
  list.child("scorer", *stages_.scorer);
  list.child("selector", *stages_.selector);
  list.child("gate", *stages_.gate);
  for (size_t i = 0; i < stages_.balancers.size(); ++i) list.child(text("balancers.", i), *stages_.balancers[i]);
}

}  // namespace collegium::route
