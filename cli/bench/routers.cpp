#include "cli/bench/routers.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>

#include "collegium/base/random.h"
#include "collegium/route/router.h"

namespace collegium::cli {
namespace {

constexpr int64_t kWidth = 512;

template <class Stage>
std::unique_ptr<Stage> make_stage(Entries<Stage> all, const Named& named, const route::StageInputs& inputs) {
  return find(all, named, "stage").make(named, inputs);
}

}  // namespace

namespace {

route::StageInputs inputs_for(const RouterSize& size) {
  return {.d_model = kWidth, .n_experts = size.experts, .random = Random(1), .options = at::kFloat};
}

// Null when the router cannot have the size; one without a choice of k has k = 1 here.
std::unique_ptr<route::Router> made(const Entry<route::Router>& entry, const RouterSize& size) {
  const auto fields = entry.fields();
  const bool has_k = std::any_of(fields.begin(), fields.end(), [](const FieldInfo& f) { return f.name == "k"; });
  if (!has_k && size.k > 1) return nullptr;
  const Named preset{.name = std::string(entry.card.name), .fields = has_k ? table({{"k", size.k}}) : Table()};
  try {
    return entry.make(preset, inputs_for(size));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;
    return nullptr;
  }
}

}  // namespace

std::vector<std::string_view> bench_routers(const RouterSize& size) {
  std::vector<std::string_view> out;
  for (const auto* entry : route::routers()) {
    const auto router = made(*entry, size);
    if (!router || !router->composition() || router->composition()->null_experts > 0) continue;
    const auto facts = router->facts();
    if (facts.needs.missing({}).empty() && !facts.reads_other_tokens) out.push_back(entry->card.name);
  }
  return out;
}

std::span<const RouterSize> router_sizes(bool quick) {
  static constexpr std::array<RouterSize, 9> all = {{{4096, 8, 1},
                                                     {4096, 8, 2},
                                                     {4096, 8, 8},
                                                     {4096, 64, 1},
                                                     {4096, 64, 2},
                                                     {4096, 64, 8},
                                                     {4096, 256, 1},
                                                     {4096, 256, 2},
                                                     {4096, 256, 8}}};
  static constexpr std::array<RouterSize, 1> small = {{{64, 8, 2}}};
  if (quick) return small;
  return all;
}

RouterTimes time_router(std::string_view name, const RouterSize& size, int64_t turns, BenchClock clock,
                        const std::function<bool()>& after_turn) {
  const auto tokens = size.tokens, experts = size.experts, k = size.k;
  const at::NoGradGuard no_grad;
  const auto inputs = inputs_for(size);
  const auto router = made(find(route::routers(), Named{.name = std::string(name)}, "router"), size);
  ensure(router && router->composition(), "a router that bench_routers() names is needed");
  const auto& c = *router->composition();
  const auto scorer = make_stage(route::scorers(), c.scorer, inputs);
  const auto selector = make_stage(route::selectors(), c.selector, inputs);
  const auto capacity = make_stage(route::capacities(), c.capacity, inputs);
  const auto gate = make_stage(route::gates(), c.gate, inputs);
  std::vector<std::unique_ptr<route::Balancer>> balancers;
  for (const auto& b : c.balancers) balancers.push_back(make_stage(route::balancers(), b, inputs));

  const auto x_ND = Random(2).normal({tokens, kWidth}, 1, at::kFloat);
  const auto weight_ED = Random(3).normal({experts, kWidth}, 0.02, at::kFloat);
  const route::Context context, inference{.losses = false};
  at::Tensor bias_E;
  for (const auto& b : balancers)
    if (const auto more_E = b->bias_E(); more_E.defined()) bias_E = bias_E.defined() ? bias_E + more_E : more_E;

  auto scores = scorer->score(x_ND, context);
  scores.n_tokens = tokens, scores.n_experts = experts, scores.kind = scorer->kind();
  const auto asked = selector->select(scores, bias_E, context);
  const auto decision = route::Decision::make(asked, tokens, experts);
  const auto placed = capacity->apply(decision, scores, context);
  const auto weighed = placed.with_gates(gate->weigh(scores, placed, context));

  const std::vector<Contender> contenders = {{"scorer", [&] { scorer->score(x_ND, context); }},
                                             {"selector", [&] { selector->select(scores, bias_E, context); }},
                                             {"decision", [&] { route::Decision::make(asked, tokens, experts); }},
                                             {"capacity", [&] { capacity->apply(decision, scores, context); }},
                                             {"gate", [&] { placed.with_gates(gate->weigh(scores, placed, context)); }},
                                             {"balancers",
                                              [&] {
                                                for (const auto& b : balancers) b->loss(scores, weighed, context);
                                              }},
                                             {"whole", [&] { router->route(x_ND, inference); }},
                                             {"transformers", [&] {
                                                const auto best = at::topk(
                                                    at::softmax(at::linear(x_ND, weight_ED), -1, at::kFloat), k, -1);
                                                std::get<0>(best).div(std::get<0>(best).sum(-1, true));
                                              }}};
  auto timed = take_turns(contenders, turns, clock, after_turn);
  RouterTimes out{std::string(name), experts, k, tokens, {}, {}, {}};
  out.rival = std::move(timed.back());
  timed.pop_back();
  out.whole = std::move(timed.back());
  timed.pop_back();
  out.stages = std::move(timed);
  return out;
}

}  // namespace collegium::cli
