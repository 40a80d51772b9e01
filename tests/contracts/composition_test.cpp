// Compositions and settings drawn at random: each is either refused when it is built, with a reason, or it trains:
// assignments are conserved, gates and gradients finite, the scorer learns where the task can teach it, and a saved
// router goes on as the first one does. Of some the derivatives are held against finite differences.
#include <array>
#include <map>

#include "collegium/route/losses.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 20, kWidth = 6;

// Draws without state: the i-th question of one composition.
class Draw {
 public:
  explicit Draw(const Random& random) : random_(random) {}
  template <size_t N>
  auto one_of(const std::array<Value, N>& values) {
    return values[random_.below(next_++, N)];
  }
  template <class Interface>
  std::string name(Entries<Interface> all) {
    return std::string(all[random_.below(next_++, all.size())]->card.name);
  }
  bool coin() { return random_.below(next_++, 2) == 1; }
  double number(double low, double high) { return low + (high - low) * random_.uniform(next_++); }
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_.below(next_++, static_cast<uint64_t>(high - low + 1)));
  }

 private:
  Random random_;
  uint64_t next_ = 0;
};

// Some of an entry's fields, set to something within their bounds.
Table settings(Draw& draw, const std::vector<FieldInfo>& fields) {
  Table out;
  for (const auto& f : fields) {
    if (!draw.coin() || !f.catalogue.empty() || !f.children.empty()) continue;
    const auto low = std::isfinite(f.min) ? f.min : 0.0, high = std::isfinite(f.max) ? f.max : low + 3;
    if (!f.choices.empty())
      out.set(f.name, f.choices[static_cast<size_t>(draw.integer(0, static_cast<int64_t>(f.choices.size()) - 1))]);
    else if (f.type == "boolean")
      out.set(f.name, draw.coin());
    else if (f.type == "integer")
      out.set(f.name, draw.integer(static_cast<int64_t>(low), static_cast<int64_t>(high)));
    else if (f.type == "float")
      out.set(f.name, draw.number(low, high));
  }
  return out;
}

template <class Interface>
Named component(Draw& draw, Entries<Interface> all) {
  Named out{.name = draw.name(all)};
  const auto& entry = find(all, out, "stage");
  out.fields = settings(draw, entry.fields());
  // Wrappers wrap any scorer, wrappers too.
  for (const auto& f : entry.fields())
    if (f.catalogue == "scorers" && draw.coin()) {
      const auto of = component(draw, scorers());
      auto below = of.fields;
      below.set("name", of.name);
      out.fields.set(f.name, below);
    }
  return out;
}

// Of all tokens, ids below 100 are a half: masks by frequency close experts to the others.
Corpus corpus() {
  auto count_V = at::ones({1000}, at::kLong);
  count_V.slice(0, 0, 100).fill_(9);
  return {.vocabulary = 1000, .count_V = count_V};
}

struct Drawn {
  Composition composition;
  int64_t n_experts = 1;
};

Drawn drawn(uint64_t seed) {
  Draw draw(Random(seed).at("composition"));
  Drawn out;
  out.n_experts = draw.integer(1, 6);
  auto& c = out.composition;
  c.scorer = component(draw, scorers()), c.selector = component(draw, selectors());
  c.capacity = component(draw, capacities()), c.gate = component(draw, gates());
  if (draw.integer(0, 3) == 0) c.null_experts = draw.integer(1, 3);
  for (auto n = draw.integer(0, 2); n > 0; --n) c.balancers.push_back(component(draw, balancers()));
  return out;
}

Context context_at(uint64_t seed, uint64_t step) {
  auto context = context_of(kTokens, 4, Phase::train);
  context.random = Random(seed).at(step);
  if (step % 2) context.mask_N = at::arange(kTokens).remainder(7).ne(static_cast<int64_t>(step));
  return context;
}

// "scorer linear" and so on, wrapped scorers as "scorer below linear".
std::vector<std::string> names_of(const Composition& c) {
  std::vector<std::string> out = {"scorer " + c.scorer.name, "selector " + c.selector.name,
                                  "capacity " + c.capacity.name, "gate " + c.gate.name};
  for (const auto& b : c.balancers) out.push_back("balancer " + b.name);
  for (const auto* below = c.scorer.fields.find("of"); below;) {
    const auto& fields = std::get<Table>(below->data);
    out.push_back("scorer below " + std::get<std::string>(fields.find("name")->data));
    below = fields.find("of");
  }
  return out;
}

// Every stage of every list. Below a wrapper, every scorer that has scores.
std::vector<std::string> all_names() {
  std::vector<std::string> out;
  const auto add = [&](std::string_view what, auto entries) {
    for (const auto* e : entries) out.push_back(text(what, " ", e->card.name));
  };
  add("scorer", scorers()), add("selector", selectors()), add("capacity", capacities()), add("gate", gates());
  add("balancer", balancers());
  for (const auto* e : scorers())
    if (e->card.name != "none") out.push_back(text("scorer below ", e->card.name));
  return out;
}

bool has(const Composition& c, const std::string& name) {
  const auto all = names_of(c);
  return std::find(all.begin(), all.end(), name) != all.end();
}

// "linear" is the scorer or one below it.
bool has_scorer(const Composition& c, const std::string& name) {
  return has(c, "scorer " + name) || has(c, "scorer below " + name);
}

// Scores carry a gradient: not those of a scorer that learns apart from the task, at any depth.
bool learns_from_task(const Composition& c) {
  return std::none_of(scorers().begin(), scorers().end(), [&](const Entry<Scorer>* e) {
    return !e->card.claims.learns_from_task && has_scorer(c, std::string(e->card.name));
  });
}

std::vector<Tensor*> scorer_parameters(Router& router) {
  std::vector<Tensor*> out;
  for (const auto& p : parameters_of(router))
    if (p.trained() && p.name.starts_with("scorer.")) out.push_back(p.tensor);
  return out;
}

// What the router decides with the scorer's weights moved a little. Leaves no mark.
Decision moved_decision(Router& router, const Tensor& x_ND, const Context& quiet) {
  const at::NoGradGuard no_grad;
  const auto before = save(router);
  uint64_t i = 0;
  for (auto* p : scorer_parameters(router)) p->add_(numbers(Random(9).at(i++), p->sizes(), -1e-3, 1e-3));
  const auto out = router.route(x_ND, quiet).decision;
  load(router, before);
  return out;
}

// Whether gates hang on what was moved: they change while the same experts are chosen for the same tokens. They do not
// where all count the same, where a share of one choice is one, or where the experts' answers decide.
bool gates_moved(const Decision& a, const Decision& b) {
  return at::equal(choice_of(a), choice_of(b)) && difference(b.gate_R(), a.gate_R()) > 1e-5;
}

bool has_gradient(const std::vector<Tensor*>& parameters) {
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const Tensor* p) { return p->grad().defined() && p->grad().ne(0).any().item<bool>(); });
}

struct Step {
  bool has_closed = false;  // experts were closed to some token; none of these was given
  bool is_taught = false;   // the gates' gradient has to reach the scorer
};

// One step of gradient descent on something that every gate and every loss is part of.
Step train_step(Router& router, uint64_t seed, uint64_t step) {
  const auto context = context_at(seed, step);
  const auto x_ND = numbers(Random(seed).at("x").at(step), {kTokens, kWidth}).requires_grad_(true);
  auto quiet = context;
  quiet.phase = Phase::recompute;
  const auto moved = moved_decision(router, x_ND, quiet);
  const auto routing = router.route(x_ND, context);
  check_decision(routing.decision, kTokens, router.n_experts(), context.mask_N);

  Step out;
  if (const auto& open_NE = routing.scores.open_NE; open_NE.defined()) {
    out.has_closed = !open_NE.all().item<bool>();
    CHECK(open_NE.index({routing.decision.token_R(), routing.decision.expert_R()}).all().item<bool>());
  }

  auto free = *router.composition();
  free.capacity = {.name = "unlimited"};
  const auto unlimited = Router::compose(free,
                                         {.d_model = kWidth,
                                          .n_experts = router.n_experts(),
                                          .random = Random(1),
                                          .options = at::kFloat,
                                          .corpus = corpus()},
                                         "");
  load(*unlimited, save(router));
  CHECK(asked_ranks(routing.decision) == asked_ranks(unlimited->route(x_ND, quiet).decision));

  // The gates first and alone: what losses teach the router is no gradient of the task.
  const auto gates = routing.decision.gate_R().square().sum();
  CHECK(std::isfinite(gates.item<double>()));
  if (gates.requires_grad()) gates.backward({}, /*retain_graph=*/true);
  out.is_taught = learns_from_task(*router.composition()) && gates_moved(routing.decision, moved);
  if (out.is_taught) CHECK(has_gradient(scorer_parameters(router)));
  auto losses = at::zeros({}, at::kDouble);
  for (const auto& l : routing.losses) {
    CHECK(std::isfinite(l.raw));
    losses = losses + l.value;
  }
  CHECK(std::isfinite(losses.item<double>()));
  if (losses.requires_grad()) losses.backward();
  if (x_ND.grad().defined()) CHECK(x_ND.grad().isfinite().all().item<bool>());
  const at::NoGradGuard no_grad;
  for (const auto& p : parameters_of(router)) {
    if (!p.trained() || !p.tensor->grad().defined()) continue;
    CHECK(p.tensor->grad().isfinite().all().item<bool>());
    p.tensor->add_(p.tensor->grad(), -0.1);
    p.tensor->mutable_grad() = Tensor();
  }
  router.step();
  return out;
}

// Whether training takes something of x or of the weights as given, so that backward passes give the derivatives of
// what is computed in evaluation only.
bool is_exact_in_evaluation_only(const Composition& c) {
  return has_scorer(c, "competition") ||    // the outcome that the router is to imitate
         has(c, "balancer coupling_loss");  // how far embeddings may be moved
}

// Derivatives of gates and losses by x and the parameters that are few enough. Two sequences of five tokens.
GradientReport gradients_of(Router& router, uint64_t seed, Phase phase) {
  constexpr int64_t N = 10, kMost = 80;
  auto x_ND = numbers(Random(seed).at("x"), {N, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
  auto context = context_of(N, 2, phase);
  std::vector<Variable> variables = {{"x", x_ND}};
  for (const auto& p : parameters_of(router))
    if (p.trained() && p.tensor->numel() <= kMost) variables.push_back({p.name, *p.tensor});
  return check_gradients(
      [&] {
        const auto r = router.route(x_ND, context);
        // By token and expert, so that another choice changes no size.
        const auto gate_NE =
            at::zeros({N, router.n_experts()}, at::kDouble)
                .index_put({r.decision.token_R(), r.decision.expert_R()}, r.decision.gate_R().to(at::kDouble));
        std::vector<Tensor> values = {gate_NE.reshape({-1})};
        for (const auto& l : r.losses) values.push_back(l.value.reshape({1}).to(at::kDouble));
        return Evaluated{at::cat(values), choice_of(r.decision)};
      },
      variables, 1e-6);
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "random compositions are refused with a reason or train") {
  std::map<std::string, int> built, refused;
  int n_built = 0, n_refused = 0, n_closed = 0, n_taught = 0;
  const auto names = all_names();
  const auto seen_all = [&] {
    return std::all_of(names.begin(), names.end(), [&](const auto& name) { return built[name] > 0; });
  };
  for (uint64_t seed = 0; seed < 10000 && (n_built < 500 || !seen_all()); ++seed) {
    const auto [composition, n_experts] = drawn(seed);
    const StageInputs inputs{
        .d_model = kWidth, .n_experts = n_experts, .random = Random(seed), .options = at::kFloat, .corpus = corpus()};
    CAPTURE(seed);
    INFO(to_toml(write_config(composition)));
    std::unique_ptr<Router> router;
    const auto reason = complaint([&] { router = Router::compose(composition, inputs, ""); });
    if (!router) {
      CHECK(reason.size() > 20);
      ++n_refused;
      for (const auto& name : names_of(composition)) ++refused[name];
      continue;
    }
    ++n_built;
    for (const auto& name : names_of(composition)) ++built[name];
    scale_parameters(*router, 3);
    bool is_taught = false;
    for (uint64_t step = 0; step < 3; ++step) {
      const auto done = train_step(*router, seed, step);
      n_closed += done.has_closed, is_taught = is_taught || done.is_taught;
    }
    n_taught += is_taught;

    auto other_inputs = inputs;
    other_inputs.random = Random(seed + 1000);
    const auto again = Router::compose(composition, other_inputs, "");
    const auto saved = save(*router);
    CHECK(load(*again, saved) == saved.size());
    train_step(*router, seed, 3), train_step(*again, seed, 3);
    CHECK(same_state(save(*router), save(*again)));
  }
  MESSAGE(n_built << " built, " << n_taught << " of them taught by their gates, " << n_refused << " refused, "
                  << n_closed << " steps with closed experts");
  CHECK(n_built >= 500);
  CHECK(n_refused >= 30);
  CHECK(n_closed >= 10);
  CHECK(n_taught >= 100);
  for (const auto& name : names) CHECK_MESSAGE(built[name] > 0, name << " was never built");
  for (const auto* e : selectors()) {
    const auto name = text("selector ", e->card.name);
    CHECK_MESSAGE(refused[name] > 0, name << " was never refused");
  }
}

TEST_CASE_FIXTURE(OneThread, "derivatives of random compositions are those of finite differences") {
  constexpr int kWanted = 50;
  int n_checked = 0, n_flat = 0, n_jumping = 0;
  for (uint64_t seed = 0; seed < 2000 && n_checked < kWanted; ++seed) {
    const auto [composition, n_experts] = drawn(seed);
    const StageInputs inputs{
        .d_model = kWidth, .n_experts = n_experts, .random = Random(seed), .options = at::kDouble, .corpus = corpus()};
    CAPTURE(seed);
    INFO(to_toml(write_config(composition)));
    std::unique_ptr<Router> router;
    complaint([&] { router = Router::compose(composition, inputs, ""); });
    if (!router || !learns_from_task(composition)) continue;
    scale_parameters(*router, 3);
    const auto phase = is_exact_in_evaluation_only(composition) ? Phase::evaluate : Phase::train;
    const auto report = gradients_of(*router, seed, phase);
    // Where someone else is chosen within a step of the difference, the function jumps and has no derivative.
    n_jumping += !report.is_smooth;
    if (!report.is_smooth) continue;
    CHECK_MESSAGE(report.worst < 1e-6, report.where);
    (report.largest > 1e-3 ? n_checked : n_flat) += 1;
  }
  MESSAGE(n_checked << " checked, besides " << n_flat << " that are flat; " << n_jumping << " jump");
  CHECK(n_checked == kWanted);
  CHECK(n_jumping < kWanted / 5);
}
