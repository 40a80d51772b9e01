// Shared by the tests of routers, layers and models: inputs, snapshots of state, and what every decision must hold.
//
// N tokens, D model width, E experts, R kept assignments.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "collegium/base/catalogue.h"
#include "collegium/base/parameters.h"
#include "collegium/base/random.h"
#include "collegium/route/router.h"

namespace collegium::test {

/// Uniform numbers in [low, high) from Random's own integers, so that no library's generator decides a test.
inline Tensor numbers(const Random& random, at::IntArrayRef sizes, double low = -1, double high = 1,
                      at::ScalarType type = at::kFloat) {
  auto out = at::empty(sizes, at::kDouble);
  auto* to = out.mutable_data_ptr<double>();
  for (int64_t i = 0; i < out.numel(); ++i) to[i] = low + (high - low) * random.uniform(static_cast<uint64_t>(i));
  return out.to(type);
}

/// int64 numbers in [0, n).
inline Tensor ids(const Random& random, int64_t count, uint64_t n) {
  auto out = at::empty({count}, at::kLong);
  auto* to = out.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int64_t>(random.below(static_cast<uint64_t>(i), n));
  return out;
}

inline std::vector<int64_t> ints(const Tensor& t) {
  const auto c = t.to(at::kCPU, at::kLong).contiguous();
  return {c.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>() + c.numel()};
}
inline std::vector<double> reals(const Tensor& t) {
  const auto c = t.detach().to(at::kCPU, at::kDouble).contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}

/// Equal in type, shape and every bit; NaN equals NaN.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && at::allclose(a, b, 0, 0, true);
}

/// Largest |a - b| over the largest |b|; 1 for different shapes.
inline double difference(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return 1;
  if (a.numel() == 0) return 0;
  const auto x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return (x - y).abs().max().item<double>() / std::max(y.abs().max().item<double>(), 1e-3);
}

/// What the call's usage Error says, hint included after " | "; "" when it throws none.
inline std::string complaint(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.hint().empty() ? error.what() : std::string(error.what()) + " | " + error.hint();
  }
  return "";
}

/// Restores the number of threads at the end of a scope.
class Threads {
 public:
  explicit Threads(int n) : before_(at::get_num_threads()) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// A test case of many tiny passes: waking a second thread for each costs more than it brings.
struct OneThread {
  Threads single_thread{1};
};

/// One of those that a contract is held over.
struct Variant {
  std::string what;
  Named named;
};

// --- State --------------------------------------------------------------------------------------------------------

struct Saved {
  std::string name;
  Tensor value;
  bool is_trained = false;
};

/// Copies of all that `module` shows.
template <class Module>
std::vector<Saved> save(Module& module) {
  std::vector<Saved> out;
  for (const auto& p : parameters_of(module)) out.push_back({p.name, p.tensor->detach().clone(), p.trained()});
  return out;
}

/// Puts saved values back, by name; the number restored.
template <class Module>
size_t load(Module& module, const std::vector<Saved>& saved) {
  const at::NoGradGuard no_grad;
  size_t n = 0;
  for (const auto& p : parameters_of(module))
    for (const auto& s : saved)
      if (s.name == p.name) p.tensor->copy_(s.value), ++n;
  return n;
}

inline bool same_state(const std::vector<Saved>& a, const std::vector<Saved>& b, bool only_buffers = false) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (only_buffers && a[i].is_trained) continue;
    if (a[i].name != b[i].name || !same_bits(a[i].value, b[i].value)) return false;
  }
  return true;
}

/// Multiplies every trained parameter: first weights are small, which puts scores close together.
template <class Module>
void scale_parameters(Module& module, double factor) {
  const at::NoGradGuard no_grad;
  for (const auto& p : parameters_of(module))
    if (p.trained()) p.tensor->mul_(factor);
}

// --- Decisions ----------------------------------------------------------------------------------------------------

using Pairs = std::multiset<std::pair<int64_t, int64_t>>;

inline Pairs pairs(const Tensor& a, const Tensor& b) {
  const auto x = ints(a), y = ints(b);
  Pairs out;
  for (size_t i = 0; i < x.size(); ++i) out.emplace(x[i], y[i]);
  return out;
}

/// (token, `what`) of everything that was asked for: fill-ins were not.
inline Pairs of_asked(const route::Decision& d, const Tensor& what_R, const Tensor& what_Q) {
  const auto asked = d.wanted_R().ge(0).nonzero().flatten();
  auto out = pairs(d.token_R().index_select(0, asked), what_R.index_select(0, asked));
  out.merge(pairs(d.dropped().token_Q, what_Q));
  return out;
}

/// (token, rank) of everything that was asked for.
inline Pairs asked_ranks(const route::Decision& d) {
  return of_asked(d, d.rank_R(), d.dropped().rank_Q);
}
/// (token, expert asked) of everything that was asked for.
inline Pairs asked_pairs(const route::Decision& d) {
  return of_asked(d, d.wanted_R(), d.dropped().expert_Q);
}

inline bool same_decision(const route::Decision& a, const route::Decision& b) {
  const auto &p = a.dropped(), &q = b.dropped();
  return a.n_tokens() == b.n_tokens() && same_bits(a.token_R(), b.token_R()) && same_bits(a.expert_R(), b.expert_R()) &&
         same_bits(a.rank_R(), b.rank_R()) && same_bits(a.slot_R(), b.slot_R()) &&
         same_bits(a.score_R().detach(), b.score_R().detach()) && same_bits(a.margin_R(), b.margin_R()) &&
         same_bits(a.gate_R().detach(), b.gate_R().detach()) && same_bits(p.token_Q, q.token_Q) &&
         same_bits(p.expert_Q, q.expert_Q) && same_bits(p.rank_Q, q.rank_Q) && same_bits(p.reason_Q, q.reason_Q) &&
         same_bits(a.offset_E1(), b.offset_E1());
}

/// The discrete part of a decision as one tensor, for gradient checks.
inline Tensor choice_of(const route::Decision& d) {
  return at::cat({d.token_R(), d.expert_R(), d.rank_R(), d.dropped().token_Q, d.dropped().expert_Q});
}

/// What every decision holds, whoever made it.
inline void check_decision(const route::Decision& d, int64_t n_tokens, int64_t n_experts, const Tensor& mask_N = {}) {
  CHECK(d.n_tokens() == n_tokens);
  CHECK(d.n_experts() == n_experts);
  const auto R = d.n_kept(), Q = d.n_dropped();
  for (const auto* t : {&d.token_R(), &d.expert_R(), &d.rank_R(), &d.slot_R()}) {
    CHECK((t->scalar_type() == at::kLong));
    CHECK((t->sizes() == at::IntArrayRef{R}));
  }
  for (const auto* t : {&d.gate_R(), &d.score_R(), &d.margin_R()}) {
    CHECK(at::isFloatingType(t->scalar_type()));
    CHECK((t->sizes() == at::IntArrayRef{R}));
  }
  const auto& gone = d.dropped();
  for (const auto* t : {&gone.token_Q, &gone.expert_Q, &gone.rank_Q, &gone.reason_Q, &gone.score_Q, &gone.margin_Q})
    CHECK((t->sizes() == at::IntArrayRef{Q}));

  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), slot = ints(d.slot_R()), rank = ints(d.rank_R());
  const auto offset = ints(d.offset_E1()), kept = ints(d.kept_E()), asked = ints(d.asked_E());
  const auto gone_token = ints(gone.token_Q), gone_expert = ints(gone.expert_Q), reason = ints(gone.reason_Q);
  const auto gate = reals(d.gate_R()), margin = reals(d.margin_R());
  const auto E = static_cast<size_t>(n_experts);
  REQUIRE(offset.size() == E + 1);
  CHECK(offset.front() == 0);
  CHECK(offset.back() == R);
  const auto wanted = ints(d.wanted_R());
  std::vector<int64_t> count(E), dropped(E), demand(E);
  std::set<std::pair<int64_t, int64_t>> seen;
  bool is_sorted = true, is_in_range = true, is_once = true, has_slots = true, is_real = true, has_gates = true,
       has_reasons = true;
  const auto mask = mask_N.defined() ? ints(mask_N) : std::vector<int64_t>(static_cast<size_t>(n_tokens), 1);
  const auto check_place = [&](int64_t n, int64_t e) {
    const bool fits = n >= 0 && n < n_tokens && e >= 0 && e < n_experts;
    is_in_range = is_in_range && fits;
    is_real = is_real && fits && mask[static_cast<size_t>(n)] != 0;
    return fits;
  };
  for (size_t r = 0; r < token.size(); ++r) {
    if (!check_place(token[r], expert[r])) continue;
    is_sorted = is_sorted && (r == 0 || expert[r - 1] <= expert[r]);
    has_slots = has_slots && slot[r] == count[static_cast<size_t>(expert[r])]++;
    if (wanted[r] >= 0) ++demand[static_cast<size_t>(wanted[r])];
    is_once = is_once && seen.emplace(token[r], expert[r]).second;
    is_in_range = is_in_range && rank[r] >= 0;
    has_gates = has_gates && std::isfinite(gate[r]) && gate[r] >= 0 && margin[r] >= 0;
  }
  for (size_t q = 0; q < gone_token.size(); ++q) {
    if (!check_place(gone_token[q], gone_expert[q])) continue;
    ++dropped[static_cast<size_t>(gone_expert[q])];
    has_reasons = has_reasons && reason[q] == static_cast<int64_t>(route::DropReason::capacity);
  }
  CHECK_MESSAGE(is_sorted, "sorted by expert");
  CHECK_MESSAGE(is_in_range, "ids in range");
  CHECK_MESSAGE(is_real, "masked tokens are never routed");
  CHECK_MESSAGE(is_once, "a token meets an expert at most once");
  CHECK_MESSAGE(has_slots, "slots count from 0 in each expert");
  CHECK_MESSAGE(has_gates, "gates are finite and not negative, margins not negative");
  CHECK_MESSAGE(has_reasons, "drops have a reason");
  for (size_t e = 0; e < E; ++e) {
    CHECK(kept[e] == count[e]);
    CHECK(offset[e + 1] - offset[e] == count[e]);
    CHECK(asked[e] == demand[e] + dropped[e]);
  }
}

/// Experts that need no weights: elementwise, different for each one.
class PlainProbe final : public route::ExpertProbe {
 public:
  Tensor one(const Tensor& x_RD, int64_t expert) override { return hidden(x_RD, expert) * 0.5; }
  Tensor hidden(const Tensor& x_RD, int64_t expert) override {
    return at::tanh(x_RD * (0.4 + 0.3 * static_cast<double>(expert)));
  }
  route::UnitPrediction predict_units(const Tensor& x_ND, int64_t n_experts) override {
    const auto tilt_E = at::arange(n_experts, x_ND.options().requires_grad(false)).unsqueeze(0);
    const auto first_N1 = x_ND.slice(1, 0, 1), last_N1 = x_ND.slice(1, -1);
    return {first_N1 * (1 - 0.7 * tilt_E) + last_N1 * (0.4 * tilt_E - 0.5),
            0.3 + x_ND.square().mean({1}, true) + 0 * tilt_E};
  }
  bool predicts_units() const override { return true; }
};

inline route::ExpertProbe* plain_probe() {
  static PlainProbe probe;
  return &probe;
}

/// Attention of B sequences of T tokens: causal, rows sum to one. [B, T, T]
inline Tensor some_attention(int64_t B, int64_t T, const at::TensorOptions& options = at::kFloat) {
  const auto later = at::ones({T, T}, at::kBool).triu(1);
  return numbers(Random(78).at("attention"), {B, T, T}).masked_fill(later, -1e30).softmax(-1).to(options);
}

/// A context of `n_sequences` equal sequences with token ids.
inline route::Context context_of(int64_t n_tokens, int64_t n_sequences = 1,
                                 route::Phase phase = route::Phase::evaluate) {
  route::Context c;
  c.phase = phase;
  c.token_id_N = ids(Random(77).at("ids"), n_tokens, 1000);
  c.n_sequences = n_sequences;
  c.experts = plain_probe();
  if (n_sequences > 0 && n_tokens % n_sequences == 0)
    c.attention_BTT = some_attention(n_sequences, n_tokens / n_sequences);
  if (n_sequences > 0 && n_tokens % n_sequences == 0)
    c.sequence_N = at::arange(n_sequences, at::kLong).repeat_interleave(n_tokens / n_sequences);
  c.random = Random(5);
  return c;
}

/// 1000 token ids, few of them frequent: counts fall like 1 / rank, in an order that says nothing.
inline route::Corpus some_corpus() {
  auto count_V = at::empty({1000}, at::kLong);
  for (int64_t id = 0; id < 1000; ++id) count_V.mutable_data_ptr<int64_t>()[id] = 1000 / (1 + id * 387 % 1000);
  return {.vocabulary = 1000, .count_V = count_V};
}

inline std::unique_ptr<route::Router> make_router(const Named& named, int64_t d_model, int64_t n_experts,
                                                  uint64_t seed = 1, at::ScalarType type = at::kFloat) {
  return find(route::routers(), named, "router")
      .make(named, {.d_model = d_model,
                    .n_experts = n_experts,
                    .random = Random(seed),
                    .options = type,
                    .corpus = some_corpus()});
}

/// The free composition as a router component.
inline Named stages(std::initializer_list<std::pair<std::string, Value>> parts) {
  return {.name = "stages", .fields = table(parts)};
}

}  // namespace collegium::test
