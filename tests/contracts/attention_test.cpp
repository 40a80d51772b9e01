// What every kind of attention holds, so that a new entry of the list is tested without a line here, or with one for
// its settings.
//
// B sequences, T tokens each, N = B T, D model width.
#include <map>

#include "collegium/kernels/flops.h"
#include "collegium/layer/attention.h"
#include "tests/support/attention_variants.h"
#include "tests/support/gradcheck.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using namespace collegium::test::attention_variants;
using route::Phase;

constexpr int64_t kB = 2, kT = 6, kD = 8;

std::unique_ptr<Attention> built(const SizedVariant& v, at::ScalarType type = at::kDouble, uint64_t seed = 1) {
  return make_attention(v.named, v.sizes, type, seed);
}

Tensor inputs(uint64_t seed = 3, int64_t B = kB, int64_t T = kT, at::ScalarType type = at::kDouble) {
  return numbers(Random(seed), {B, T, kD}, -1, 1, type);
}

Tensor output(Attention& made, const Tensor& x_BTD, Phase phase = Phase::evaluate) {
  return attend_all(made, x_BTD, phase).y_ND.reshape_as(x_BTD);
}

// Limits and heads that choose make all tokens of a batch compete.
bool competes(Attention& made) {
  return made.router() && (made.router()->facts().may_drop || made.router()->facts().chooser == route::Chooser::expert);
}

Tensor gaps_mask() {
  return at::tensor(std::vector<int64_t>{1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0}).to(at::kBool).reshape({kB, kT});
}
Tensor padding_mask() {
  return at::tensor(std::vector<int64_t>{1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1}).to(at::kBool).reshape({kB, kT});
}

// The output, probabilities where there are any, and each loss by every parameter and by x.
GradientReport gradients(const SizedVariant& v, const Tensor& mask_BT, bool needs_probabilities) {
  const auto made = built(v);
  const auto x_BTD = inputs().requires_grad_(true);
  auto routing = sequences(kB, kT, Phase::recompute);
  auto here = attention_context(*made, kB, kT);
  here.needs_probabilities = needs_probabilities;
  if (mask_BT.defined()) set_mask(routing, here, mask_BT);
  std::vector<Variable> variables = {{"x", x_BTD}};
  for (const auto& p : parameters_of(*made))
    if (p.trained()) variables.push_back({p.name, *p.tensor});
  return check_gradients(
      [&] {
        auto out = made->forward(x_BTD.reshape({kB * kT, kD}), routing, here);
        if (mask_BT.defined()) out.y_ND = out.y_ND.masked_fill(routing.mask_N.logical_not().unsqueeze(1), 0);
        std::vector<Tensor> values = {out.y_ND.reshape({-1})};
        if (needs_probabilities) values.push_back(out.attention_BTT.reshape({-1}));
        for (const auto& l : out.losses) values.push_back(l.value.reshape({1}).to(at::kDouble));
        return Evaluated{at::cat(values), out.decision ? choice_of(*out.decision) : Tensor()};
      },
      variables, 1e-6);
}

// Variants whose work is not what their facts say, with the reason.
const std::map<std::string, std::string>& uncounted() {
  static const std::string uneven = "every token has as many places as the one with the most heads";
  static const std::map<std::string, std::string> all = {
      {"any number of heads", uneven},
      {"heads that choose tokens", uneven},
      {"heads that keep half", "what is not kept is not worked on"},
  };
  return all;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "attention: shapes, types, facts") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
      for (const auto& [B, T] : std::vector<std::pair<int64_t, int64_t>>{{kB, kT}, {1, 1}, {3, 1}, {1, 9}}) {
        CAPTURE(std::string(at::toString(type)));
        CAPTURE(T);
        const auto made = built(v, type == at::kDouble ? at::kDouble : at::kFloat);
        const auto out = attend_all(*made, inputs(3, B, T, type), Phase::train);
        CHECK((out.y_ND.sizes() == at::IntArrayRef{B * T, kD}));
        CHECK((out.y_ND.scalar_type() == type));
        CHECK(out.y_ND.isfinite().all().item<bool>());
        CHECK(out.y_ND.abs().max().item<double>() > 0);
        CHECK_FALSE(out.attention_BTT.defined());
        const auto facts = made->facts(T);
        CHECK(out.decision.has_value() == (facts.n_experts > 0));
        if (out.decision) check_decision(*out.decision, B * T, facts.n_experts);
        CHECK((facts.n_experts > 0) == (made->router() != nullptr));
        CHECK(facts.flops_per_token > 0);
        CHECK(facts.activations_per_token > 0);
        CHECK(facts.cache_bytes_per_token > 0);
        made->step();
      }
    const auto made = built(v);
    std::set<std::string> names;
    double total = 0;
    for (const auto& p : parameters_of(*made)) {
      CHECK_MESSAGE(names.insert(p.name).second, p.name);
      CHECK(p.tensor->requires_grad() == p.trained());
      if (p.trained()) total += static_cast<double>(p.tensor->numel());
    }
    CHECK(made->facts(kT).parameters_active > 0);
    CHECK(made->facts(kT).parameters_active <= total);
    CHECK(made->facts(64).flops_per_token > made->facts(16).flops_per_token);
    CHECK(made->facts(64, at::kBFloat16).cache_bytes_per_token < made->facts(64).cache_bytes_per_token);
  }
}

TEST_CASE_FIXTURE(OneThread, "the work attention says it does is the work it does, within a twentieth") {
  constexpr int64_t B = 8, T = 64;
  std::set<std::string> missed;
  for (const auto& [what, reason] : uncounted()) missed.insert(what);
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const at::NoGradGuard no_grad;
    const auto made = built(v, at::kFloat);
    const kernels::FlopCounter counter;
    attend_all(*made, inputs(3, B, T, at::kFloat), Phase::train);
    const auto ratio = made->facts(T).flops_per_token * B * T / counter.flops();
    if (missed.erase(v.what) > 0)
      CHECK_MESSAGE(std::abs(ratio - 1) > 0.05, uncounted().at(v.what));
    else
      CHECK(ratio == doctest::Approx(1).epsilon(0.05));
  }
  CHECK(missed.empty());
}

TEST_CASE_FIXTURE(OneThread, "attention in bfloat16 is near float32") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto x_BTD = inputs(3, kB, kT, at::kBFloat16);
    const auto made = built(v, at::kFloat);
    CHECK(difference(output(*made, x_BTD), output(*made, x_BTD.to(at::kFloat))) < 0.03);
  }
}

TEST_CASE_FIXTURE(OneThread, "attention: derivatives, with padding and with gaps, fused and written out") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    if (!find(attentions(), v.named, "attention").card.claims.has_exact_gradient) continue;
    for (const bool needs_probabilities : {false, true}) {
      if (needs_probabilities && !built(v)->facts(kT).gives_probabilities) continue;
      for (const auto& mask_BT : {Tensor(), padding_mask(), gaps_mask()}) {
        const auto report = gradients(v, mask_BT, needs_probabilities);
        CAPTURE(report.where);
        CHECK(report.is_smooth);
        CHECK(report.worst < 1e-6);
        CHECK(report.largest > 1e-3);
      }
    }
  }
}

TEST_CASE_FIXTURE(OneThread, "attention: later tokens and other sequences have no say, unless it says they do") {
  int causal = 0;
  for (const auto& v : variants())
    for (const auto phase : {Phase::evaluate, Phase::recompute}) {
      CAPTURE(v.what);
      const auto made = built(v);
      const auto before = output(*made, inputs(), phase);
      double worst = 0;
      for (uint64_t seed = 70; seed < 75; ++seed)
        for (const int64_t cut : {1, 3, 5}) {
          auto other = inputs();
          other[0].slice(0, cut).copy_(4 * inputs(seed, 1, kT - cut)[0]);
          const auto after = output(*made, other, phase);
          if (!competes(*made)) CHECK(difference(after[1], before[1]) < 1e-12);
          CHECK(difference(after[0].slice(0, cut), before[0].slice(0, cut)) > 1e-4);
          worst = std::max(worst, difference(after[0].slice(0, 0, cut), before[0].slice(0, 0, cut)));
        }
      // Losses may compare whole sequences in training; evaluation is what is held to the word.
      if (phase == Phase::evaluate) {
        CHECK((worst < 1e-12) == made->facts(kT).is_causal);
        causal += made->facts(kT).is_causal;
      }
    }
  CHECK(causal > 0);
}

TEST_CASE_FIXTURE(OneThread, "attention: earlier tokens matter, and so does their order") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v);
    auto other = inputs();
    other.select(1, 0).mul_(-3);
    CHECK(difference(output(*made, other).slice(1, 1), output(*made, inputs()).slice(1, 1)) > 1e-4);
    auto swapped = inputs();
    swapped.select(1, 0).copy_(inputs().select(1, 1)), swapped.select(1, 1).copy_(inputs().select(1, 0));
    CHECK(difference(output(*made, swapped).slice(1, 2), output(*made, inputs()).slice(1, 2)) > 1e-6);
  }
}

TEST_CASE_FIXTURE(OneThread, "attention: with a cache as without, and the cache is as large as the facts say") {
  int cached = 0;
  for (const auto& v : variants()) {
    const auto facts = built(v)->facts(kT);
    if (facts.reads_other_tokens || competes(*built(v))) continue;
    ++cached;
    for (const auto type : {at::kDouble, at::kFloat})
      for (const auto& pieces : std::vector<std::vector<int64_t>>{{1, 1, 1, 1, 1, 1}, {3, 1, 2}, {1, 5}, {6}}) {
        CAPTURE(v.what);
        const at::NoGradGuard no_grad;
        const auto made = built(v, type);
        const auto x_BTD = inputs(3, kB, kT, type);
        AttentionCache cache;
        std::vector<Tensor> parts;
        int64_t past = 0;
        for (const auto n : pieces) {
          auto here = attention_context(*made, kB, n, type, past);
          here.cache = &cache;
          const auto part_ND = x_BTD.slice(1, past, past + n).reshape({kB * n, kD});
          parts.push_back(made->forward(part_ND, sequences(kB, n), here).y_ND.reshape({kB, n, kD}));
          past += n;
        }
        CHECK(difference(at::cat(parts, 1), output(*made, x_BTD)) < (type == at::kDouble ? 1e-12 : 1e-5));
        double bytes = 0;
        for (const auto& t : cache.tensors)
          if (t.defined()) bytes += static_cast<double>(t.numel() * t.element_size());
        CHECK(bytes <= made->facts(kT, type).cache_bytes_per_token * static_cast<double>(kB * kT));
        CHECK(bytes > 0.5 * made->facts(kT, type).cache_bytes_per_token * static_cast<double>(kB * kT));
      }
  }
  CHECK(cached > 0);
}

TEST_CASE_FIXTURE(OneThread, "attention: masked tokens have no influence, wherever they stand") {
  for (const auto& v : variants())
    for (const auto& mask_BT : {padding_mask(), gaps_mask()})
      for (const bool needs_probabilities : {false, true}) {
        CAPTURE(v.what);
        const auto made = built(v);
        if (needs_probabilities && !made->facts(kT).gives_probabilities) continue;
        const auto run = [&](double filler) {
          auto routing = sequences(kB, kT, Phase::train);
          auto here = attention_context(*made, kB, kT);
          here.needs_probabilities = needs_probabilities;
          set_mask(routing, here, mask_BT);
          auto x_BTD = inputs();
          x_BTD.index_put_({mask_BT.logical_not()}, at::full({}, filler));
          for (const auto& p : parameters_of(*made)) p.tensor->mutable_grad() = Tensor();
          const auto out = made->forward(x_BTD.reshape({kB * kT, kD}), routing, here);
          CHECK(out.y_ND.isfinite().all().item<bool>());
          auto sum = out.y_ND.index({routing.mask_N}).square().sum();
          for (const auto& l : out.losses) sum = sum + l.value;
          sum.backward();
          std::vector<Tensor> all = {out.y_ND.index({routing.mask_N}).detach()};
          for (const auto& p : parameters_of(*made))
            if (p.trained() && p.tensor->grad().defined()) all.push_back(p.tensor->grad());
          return all;
        };
        const auto a = run(0), b = run(7);
        REQUIRE(a.size() == b.size());
        for (size_t i = 0; i < a.size(); ++i) CHECK(difference(b[i], a[i]) < 1e-9);
      }
}

TEST_CASE_FIXTURE(OneThread, "attention: padding at the end is as if it were not there") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v);
    const auto short_BTD = inputs(3, kB, 4);
    auto routing = sequences(kB, kT);
    auto here = attention_context(*made, kB, kT);
    auto mask_BT = at::ones({kB, kT}, at::kBool);
    mask_BT.slice(1, 4).fill_(false);
    set_mask(routing, here, mask_BT);
    const auto padded_BTD = at::cat({short_BTD, inputs(5, kB, 2)}, 1);
    const auto y_BTD = made->forward(padded_BTD.reshape({kB * kT, kD}), routing, here).y_ND.reshape({kB, kT, kD});
    CHECK(difference(y_BTD.slice(1, 0, 4), output(*made, short_BTD)) < 1e-12);
  }
}

TEST_CASE_FIXTURE(OneThread, "attention: probabilities are shares of what is visible, and change no output") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto made = built(v);
    if (!made->facts(kT).gives_probabilities) continue;
    auto here = attention_context(*made, kB, kT);
    here.needs_probabilities = true;
    const auto out = made->forward(inputs().reshape({kB * kT, kD}), sequences(kB, kT), here);
    CHECK(difference(out.y_ND, attend_all(*made, inputs()).y_ND) < 1e-12);
    CHECK((out.attention_BTT.sizes() == at::IntArrayRef{kB, kT, kT}));
    CHECK(out.attention_BTT.triu(1).abs().max().item<double>() == 0);
    CHECK(out.attention_BTT.min().item<double>() >= 0);
    CHECK(difference(out.attention_BTT.sum(-1), at::ones({kB, kT})) < 1e-12);
  }
}

TEST_CASE_FIXTURE(OneThread, "attention: the same seed gives the same; saved and loaded it computes the same") {
  for (const auto& v : variants()) {
    CAPTURE(v.what);
    const auto a = built(v, at::kFloat, 1), b = built(v, at::kFloat, 1), c = built(v, at::kFloat, 2);
    CHECK(same_state(save(*a), save(*b)));
    CHECK_FALSE(same_state(save(*a), save(*c)));
    const auto saved = save(*a);
    CHECK(load(*c, saved) == saved.size());
    const auto x_BTD = inputs(3, kB, kT, at::kFloat);
    CHECK(same_bits(output(*a, x_BTD), output(*c, x_BTD)));
  }
}
