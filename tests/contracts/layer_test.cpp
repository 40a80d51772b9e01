// What every layer and every kind of expert holds: each check runs over every layer, over a routed layer with every
// router, and over every kind of expert, so a new entry of a list is tested without a line here.
//
// N tokens, D model width, E experts.
#include <map>

#include "collegium/kernels/flops.h"
#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"
#include "tests/support/gradcheck.h"
#include "tests/support/layer_variants.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using namespace collegium::test::layer_variants;
using route::Phase;

Tensor inputs(uint64_t seed = 3, int64_t n = kTokens, at::ScalarType type = at::kFloat) {
  return numbers(Random(seed), {n, kWidth}, -1, 1, type);
}

std::vector<double> raws(const LayerOutput& out) {
  std::vector<double> all;
  for (const auto& l : out.losses) all.push_back(l.raw);
  return all;
}

bool is_close(const std::vector<double>& a, const std::vector<double>& b) {
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i) same = std::abs(a[i] - b[i]) <= 1e-5 * std::max(1.0, std::abs(b[i]));
  return same;
}

bool has_limit(MoeLayer& layer) {
  return layer.router() && layer.router()->facts().may_drop;
}
bool has_exact_gradient(const Variant& v) {
  const auto made = built(v.named);
  return find(layers(), v.named, "layer").card.claims.has_exact_gradient &&
         (!made->router() || made->router()->facts().learns_from_task);
}
// Whether weights or token ids decide who is chosen (not, say, what the experts make of a token).
bool is_steered(MoeLayer& layer) {
  if (!layer.router()) return false;
  const auto all = parameters_of(*layer.router());
  return layer.facts().needs.token_ids ||
         std::any_of(all.begin(), all.end(), [](const ParameterRef& p) { return p.trained(); });
}
bool is_expert_choice(MoeLayer& layer) {
  return layer.router() && layer.router()->facts().chooser == route::Chooser::expert;
}

// The layer's output and each of its losses by every parameter and by x.
GradientReport gradients(const Named& named, const std::function<void(MoeLayer&, Tensor&, route::Context&)>& prepare) {
  const auto made = built(named, 1, at::kDouble);
  auto x_ND = inputs(3, kTokens, at::kDouble);
  auto context = context_of(kTokens, 2);
  prepare(*made, x_ND, context);
  x_ND.requires_grad_(true);
  std::vector<Variable> variables = {{"x", x_ND}};
  for (const auto& p : parameters_of(*made))
    if (p.trained()) variables.push_back({p.name, *p.tensor});
  return check_gradients(
      [&] {
        const auto out = made->forward(x_ND, context);
        std::vector<Tensor> values = {out.y_ND.reshape({-1})};
        for (const auto& l : out.losses) values.push_back(l.value.reshape({1}).to(at::kDouble));
        return Evaluated{at::cat(values), out.decision ? choice_of(*out.decision) : Tensor()};
      },
      variables);
}

void check_report(const GradientReport& report) {
  CAPTURE(report.where);
  CHECK(report.is_smooth);
  CHECK(report.worst < 1e-6);
  CHECK(report.n_compared > 0);
  CHECK(report.largest > 1e-3);
}

// Variants whose work is not what their facts say, with the reason.
const std::map<std::string, std::string>& uncounted() {
  static const std::string merges = "low-rank experts that work for every token are merged once a batch",
                           varies = "how many experts a token has depends on its scores",
                           drops = "what a limit drops is not worked on";
  static const std::map<std::string, std::string> all = {
      {"dense with lora", merges},         {"cartesian with lora", merges},
      {"routed by top_p", varies},         {"dropping", drops},
      {"dropping, shares of kept", drops}, {"rerouting", drops},
      {"limits of each sequence", drops},  {"slices that keep half", drops},
  };
  return all;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "shapes, types and claims of layers") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      CAPTURE(std::string(at::toString(type)));
      const auto made = built(v.named, 1, type == at::kDouble ? at::kDouble : at::kFloat);
      const auto out = made->forward(inputs(3, kTokens, type), context_of(kTokens, 2, Phase::train));
      CHECK((out.y_ND.sizes() == at::IntArrayRef{kTokens, kWidth}));
      CHECK((out.y_ND.scalar_type() == type));
      CHECK(out.y_ND.isfinite().all().item<bool>());
      CHECK(out.y_ND.abs().max().item<double>() > 0);
      const auto& card = find(layers(), v.named, "layer").card;
      CHECK(out.decision.has_value() == card.claims.has_assignment);
      const auto facts = made->facts();
      if (made->router() || card.claims.has_assignment) CHECK(facts.n_experts > 0);
      if (card.claims.has_assignment) CHECK(made->router());
      if (out.decision) check_decision(*out.decision, kTokens, facts.n_experts);
      CHECK(facts.parameters_active > 0);
      CHECK(facts.flops_per_token > 0);
      auto recorded = context_of(kTokens, 2);
      recorded.record = true;
      const auto described = made->forward(inputs(3, kTokens, type), recorded).decision;
      CHECK(described.has_value() == (facts.n_experts > 0));
      if (described) check_decision(*described, kTokens, facts.n_experts);
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "the work a layer says it does is the work it does, within a twentieth") {
  // Enough tokens that what is done once a batch does not count.
  constexpr int64_t B = 200, T = 8, N = B * T;
  std::set<std::string> missed;
  for (const auto& [what, reason] : uncounted()) missed.insert(what);
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const at::NoGradGuard no_grad;
    const auto made = built(v.named);
    const auto facts = made->facts();
    const kernels::FlopCounter counter;
    made->forward(inputs(3, N), context_of(N, B, Phase::train));
    // Importance by attention adds up its columns, one product with ones.
    const auto columns = v.what == "routed by da_moe" ? 2.0 * T : 0.0;
    const auto said = facts.flops_at(T) + columns, done = counter.flops() / N;
    // Tokens with one open expert pass by the router: how many there are is a matter of the text, so all are counted.
    if (v.what == "routed by mask_moe") {
      const auto router = made->router()->facts().flops_per_token;
      CHECK(done < said);
      CHECK(done > said - router);
      continue;
    }
    const auto ratio = said / done;
    // Who is excused has to need it, so that the list stays short.
    if (missed.erase(v.what) > 0)
      CHECK_MESSAGE(std::abs(ratio - 1) > 0.05, uncounted().at(v.what));
    else
      CHECK(ratio == doctest::Approx(1).epsilon(0.05));
  }
  CHECK(missed.empty());
}

TEST_CASE_FIXTURE(OneThread, "bfloat16 layers are near float32 ones") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto x_ND = inputs().to(at::kBFloat16);
    const auto low = built(v.named)->forward(x_ND, context_of(kTokens, 2)).y_ND;
    const auto high = built(v.named)->forward(x_ND.to(at::kFloat), context_of(kTokens, 2)).y_ND;
    CHECK(difference(low, high) < 0.03);
  }
}

TEST_CASE_FIXTURE(OneThread, "derivatives of layers and their losses") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    if (!has_exact_gradient(v)) continue;
    check_report(gradients(v.named, [](MoeLayer&, Tensor&, route::Context&) {}));
  }
}

TEST_CASE_FIXTURE(OneThread, "derivatives with masked tokens") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    if (!has_exact_gradient(v)) continue;
    check_report(gradients(v.named, [](MoeLayer&, Tensor&, route::Context& c) {
      c.mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 0, 1}).to(at::kBool);
    }));
  }
}

TEST_CASE_FIXTURE(OneThread, "derivatives with every token on one expert and none on others") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    if (!has_exact_gradient(v) || !is_steered(*built(v.named))) continue;
    int64_t most = 0, least = kTokens;
    check_report(gradients(v.named, [&](MoeLayer& made, Tensor& x_ND, route::Context& c) {
      const at::NoGradGuard no_grad;
      c.token_id_N.fill_(3);
      // Tokens nearly alike, so that scores which are no dot products agree on an expert, too; equal ones would tie.
      const auto first_1D = x_ND.slice(0, 0, 1).clone();
      x_ND.mul_(0.05).add_(first_1D);
      x_ND.select(1, 0).fill_(1);
      for (const auto& p : parameters_of(*made.router()))
        if (p.trained() && p.tensor->dim() == 2 && p.tensor->size(0) == kExperts)
          p.tensor->select(1, 0).add_(at::tensor(std::vector<double>{1.5, -4, 4, -4}).to(*p.tensor));
      const auto load = made.forward(x_ND, c).decision->asked_E();
      most = load.max().item<int64_t>(), least = load.min().item<int64_t>();
    }));
    const auto made = built(v.named);
    if (is_expert_choice(*made)) continue;
    CHECK(most == kTokens);
    CHECK(least == 0);
  }
}

TEST_CASE_FIXTURE(OneThread, "layers without tokens and with one") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    for (const int64_t n : {0, 1}) {
      auto context = context_of(n, 1, Phase::train);
      context.record = true;
      const auto x_ND = inputs(3, n).requires_grad_(true);
      const auto out = made->forward(x_ND, context);
      CHECK((out.y_ND.sizes() == at::IntArrayRef{n, kWidth}));
      CHECK(out.y_ND.isfinite().all().item<bool>());
      CHECK(out.decision.has_value() == (made->facts().n_experts > 0));
      auto sum = out.y_ND.sum();
      for (const auto& l : out.losses) sum = sum + l.value;
      CHECK(std::isfinite(sum.item<double>()));
      if (sum.requires_grad()) sum.backward();
      made->step();
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "causal layers give earlier tokens the same output") {
  int causal = 0;
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    if (!made->facts().is_causal) continue;
    ++causal;
    for (const int64_t cut : {1, 4}) {
      auto other_ND = inputs().clone();
      other_ND.slice(0, cut).copy_(6 * inputs(9).slice(0, cut));
      const auto a = made->forward(inputs(), context_of(kTokens)).y_ND;
      const auto b = made->forward(other_ND, context_of(kTokens)).y_ND;
      CHECK(difference(b.slice(0, 0, cut), a.slice(0, 0, cut)) < 1e-6);
      CHECK(difference(b.slice(0, cut), a.slice(0, cut)) > 1e-3);
    }
  }
  CHECK(causal > 0);
}

TEST_CASE_FIXTURE(OneThread, "token ids are needed by the layers that say so") {
  int needed = 0;
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    auto context = context_of(kTokens, 2);
    context.token_id_N = Tensor();
    const auto said = complaint([&] { made->forward(inputs(), context); });
    CHECK((said.find("token ids") != std::string::npos) == made->facts().needs.token_ids);
    needed += made->facts().needs.token_ids;
  }
  CHECK(needed > 0);
}

TEST_CASE_FIXTURE(OneThread, "the order of tokens in a sequence does not matter without a limit") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    // A causal layer that reads other tokens reads those before.
    if (has_limit(*made) || (made->facts().is_causal && made->facts().reads_other_tokens)) continue;
    // What is drawn goes by the place in the batch.
    if (made->router() && made->router()->facts().is_random) continue;
    const auto order = at::tensor(std::vector<int64_t>{4, 2, 0, 5, 1, 3});
    auto context = context_of(kTokens), mixed = context;
    mixed.token_id_N = context.token_id_N.index_select(0, order);
    const auto a = made->forward(inputs(), context), b = made->forward(inputs().index_select(0, order), mixed);
    CHECK(difference(b.y_ND, a.y_ND.index_select(0, order)) < 1e-5);
    CHECK(is_close(raws(a), raws(b)));
  }
}

TEST_CASE_FIXTURE(OneThread, "a token's output does not depend on its company") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    // Limits, experts that choose and slots make tokens compete.
    if (has_limit(*made) || is_expert_choice(*made) || !made->facts().is_causal) continue;
    auto context = context_of(kTokens);
    const auto all_ND = made->forward(inputs(), context).y_ND;
    context.token_id_N = context.token_id_N.slice(0, 0, 4);
    context.sequence_N = Tensor();
    context.attention_BTT = context.attention_BTT.slice(1, 0, 4).slice(2, 0, 4);
    CHECK(difference(made->forward(inputs().slice(0, 0, 4), context).y_ND, all_ND.slice(0, 0, 4)) < 1e-6);
  }
}

TEST_CASE("threads do not change a bit of a routed layer") {
  const int64_t many = 1500;
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    // Only the fused kernels promise this; a BLAS product of dense rows may add up in another order.
    const auto* dispatch = v.named.fields.find("dispatch");
    if (v.named.name != "routed" || dispatch || v.named.fields.find("n_shared")) continue;
    const auto run = [&](int threads) {
      const Threads guard(threads);
      const auto made = built(v.named);
      return made->forward(inputs(8, many), context_of(many, 2));
    };
    const auto one = run(1), two = run(2);
    CHECK(same_decision(*one.decision, *two.decision));
    CHECK(same_bits(one.y_ND, two.y_ND));
  }
}

TEST_CASE_FIXTURE(OneThread, "the same seed gives the same layer; saved and loaded it computes the same") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto a = built(v.named, 1), b = built(v.named, 1), c = built(v.named, 2);
    CHECK(same_state(save(*a), save(*b)));
    CHECK_FALSE(same_state(save(*a), save(*c)));
    const auto context = context_of(kTokens, 2, Phase::train);
    a->forward(inputs(4), context), a->step(), a->forward(inputs(5), context);
    const auto saved = save(*a);
    CHECK(load(*c, saved) == saved.size());
    const auto p = a->forward(inputs(), context), q = c->forward(inputs(), context);
    CHECK(same_bits(p.y_ND, q.y_ND));
    CHECK(raws(p) == raws(q));
    a->step(), c->step();
    CHECK(same_state(save(*a), save(*c)));
  }
}

TEST_CASE_FIXTURE(OneThread, "only training changes a layer's state") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    const auto before = save(*made);
    for (const auto phase : {Phase::evaluate, Phase::recompute, Phase::replay})
      made->forward(inputs(), context_of(kTokens, 2, phase));
    CHECK(same_state(save(*made), before));
  }
}

TEST_CASE_FIXTURE(OneThread, "an evaluated pass whose losses nobody reads has none and gives the same") {
  int with_losses = 0;
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    auto context = context_of(kTokens, 2);
    const auto a = made->forward(inputs(), context);
    context.losses = false;
    const auto b = made->forward(inputs(), context);
    CHECK(b.losses.empty());
    CHECK(same_bits(a.y_ND, b.y_ND));
    with_losses += !a.losses.empty();
  }
  CHECK(with_losses > 10);
}

TEST_CASE_FIXTURE(OneThread, "masked tokens have no influence on the others, their losses and gradients") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 1, 0}).to(at::kBool);
    auto context = context_of(kTokens, 2);
    context.mask_N = mask_N;
    const auto run = [&](double filler) {
      const auto made = built(v.named);
      auto x_ND = inputs().clone();
      x_ND.index_put_({mask_N.logical_not()}, at::full({}, filler));
      auto mine = context;
      mine.token_id_N = context.token_id_N.masked_fill(mask_N.logical_not(), static_cast<int64_t>(filler));
      auto out = made->forward(x_ND, mine);
      auto sum = out.y_ND.index({mask_N}).square().sum();
      for (const auto& l : out.losses) sum = sum + l.value;
      sum.backward();
      std::vector<Tensor> all = {out.y_ND.index({mask_N}).detach(), at::tensor(raws(out))};
      for (const auto& p : parameters_of(*made))
        if (p.trained() && p.tensor->grad().defined()) all.push_back(p.tensor->grad());
      return all;
    };
    const auto a = run(0), b = run(7);
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) CHECK(difference(b[i], a[i]) < 1e-6);
  }
}

TEST_CASE_FIXTURE(OneThread, "inputs need not be contiguous") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    const auto slanted_ND = inputs().t().contiguous().t();
    const auto a = made->forward(inputs(), context_of(kTokens, 2)),
               b = made->forward(slanted_ND, context_of(kTokens, 2));
    CHECK(difference(b.y_ND, a.y_ND) < 1e-6);
  }
}

TEST_CASE_FIXTURE(OneThread, "what a layer says it has is what it has") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v.named);
    std::set<std::string> names;
    double total = 0;
    for (const auto& p : parameters_of(*made)) {
      CHECK_MESSAGE(names.insert(p.name).second, p.name);
      CHECK(p.tensor->requires_grad() == p.trained());
      if (p.trained()) total += static_cast<double>(p.tensor->numel());
    }
    CHECK(made->facts().parameters_active <= total);
  }
}

// --- Experts ------------------------------------------------------------------------------------------------------

TEST_CASE_FIXTURE(OneThread, "every kind of expert: fused equals the loop, values and derivatives") {
  for (const auto* e : experts()) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      for (const auto& [what, router] : std::vector<std::pair<std::string, Named>>{
               {"top_k", {.name = "top_k"}},
               {"drops", {.name = "top_k", .fields = table({{"capacity_factor", 0.5}})}},
               {"empty experts", {.name = "hash"}},
               {"expert choice", {.name = "expert_choice"}}}) {
        CAPTURE(e->card.name);
        CAPTURE(what);
        CAPTURE(std::string(at::toString(type)));
        const auto made = e->make({.name = std::string(e->card.name)},
                                  {.n_experts = 5, .d_model = 12, .d_expert = 7, .random = Random(2), .options = type});
        const auto routing = make_router(router, 12, 5, 3, type);
        scale_parameters(*routing, 5);
        const auto x_ND = numbers(Random(4), {11, 12}, -1, 1, type).requires_grad_(true);
        const auto d = routing->route(x_ND.detach(), context_of(11)).decision;
        const auto gate_R = d.gate_R().detach().clone().requires_grad_(true);
        const auto gated = d.with_gates(gate_R);
        const auto along = numbers(Random(5), {11, 12}, -1, 1, type);
        const auto run = [&](const std::function<Tensor()>& forward) {
          std::vector<Tensor*> leaves;
          auto x = x_ND, gate = gate_R;
          leaves.push_back(&x), leaves.push_back(&gate);
          for (const auto& p : parameters_of(*made)) leaves.push_back(p.tensor);
          for (auto* t : leaves) t->mutable_grad() = Tensor();
          const auto y_ND = forward();
          (y_ND * along).sum().backward();
          std::vector<Tensor> all = {y_ND.detach()};
          for (auto* t : leaves) all.push_back(t->grad().clone());
          return all;
        };
        const auto fused = run([&] { return made->forward(x_ND, gated); });
        const auto loop = run([&] { return forward_loop(*made, x_ND, gated); });
        const double limit = type == at::kDouble ? 1e-12 : 1e-5;
        for (size_t i = 0; i < fused.size(); ++i) CHECK(difference(fused[i], loop[i]) < limit);

        const auto rows_RD = made->rows(x_ND.index_select(0, d.token_R()), d.offset_E1());
        const auto offset = ints(d.offset_E1());
        for (int64_t i = 0; i < 5; ++i) {
          const auto from = offset[static_cast<size_t>(i)], to = offset[static_cast<size_t>(i) + 1];
          if (from == to) continue;
          const auto one = made->one(x_ND.index_select(0, d.token_R().slice(0, from, to)), i);
          CHECK(difference(rows_RD.slice(0, from, to), one) < limit);
        }
      }
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "every kind of expert: views write through, one expert each") {
  for (const auto* e : experts()) {
    CAPTURE(e->card.name);
    const auto made =
        e->make({.name = std::string(e->card.name)},
                {.n_experts = 3, .d_model = 4, .d_expert = 2, .random = Random(2), .options = at::kFloat});
    const auto x_RD = numbers(Random(4), {2, 4});
    std::vector<Tensor> before;
    for (int64_t i = 0; i < 3; ++i) before.push_back(made->one(x_RD, i).detach().clone());
    int64_t seen = 0;
    {
      const at::NoGradGuard no_grad;
      for (auto& view : made->view(1)) {
        CHECK_FALSE(view.name.empty());
        seen += view.tensor.numel();
        view.tensor.add_(0.5);
      }
    }
    CHECK(seen == made->parameters_per_expert() - made->parameters_shared());
    for (int64_t i = 0; i < 3; ++i) {
      const auto same = difference(made->one(x_RD, i), before[static_cast<size_t>(i)]) == 0;
      CHECK(same == (i != 1));
    }
    int64_t total = 0;
    for (const auto& p : parameters_of(*made)) total += p.tensor->numel();
    CHECK(static_cast<double>(total) == made->parameters_working(3));
    for (const int64_t out_of_range : {-1, 3})
      CHECK(complaint([&] { made->view(out_of_range); }).find("there is no expert") != std::string::npos);
  }
}
