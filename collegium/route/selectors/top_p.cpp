// Dynamic routing: a token takes its experts by descending score until their sum reaches p, so that a confident router
// sends it to few and an uncertain one to many. P059 (Huang 2024), section 3.2, eq. 4 and 5: p = 0.4.
// Ties go to the lower expert. Sums are formed in double. No selection bias is read: p bounds a probability mass.
//
// N tokens, E experts.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "collegium/route/stages.h"

namespace collegium::route {
namespace {

constexpr Selector::Claims kTopPClaims = {.chooser = Chooser::token, .asks_fixed_number = false};

class TopPSelector final : public Selector, public Makes<TopPSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    double p = 0.4;
    int64_t max_k = 0;
    double expected_k = 2;
    void visit(Fields& field) {
      field("p", p, {.help = "experts are added until their scores sum to this", .min = 0, .max = 1});
      field("max_k", max_k, {.help = "never more experts than this; 0 = no limit", .unit = "experts", .min = 0});
      field("expected_k", expected_k,
            {.help = "experts per token that the plan counts with; the scores decide what it really is",
             .unit = "experts",
             .min = 0});
    }
  };

  TopPSelector(const Config& config, const StageInputs& in) : config_(config), limit_(in.n_experts) {
    require(config.max_k <= in.n_experts, "top_p: max_k = ", config.max_k, " is more than the ", in.n_experts,
            " experts there are");
    if (config.max_k > 0) limit_ = config.max_k;
  }

  Assignments select(const Scores& scores, const Tensor&, const Context& context) override {
    const auto order_NE = scores.score_NE.detach().argsort(/*stable=*/true, /*dim=*/1, /*descending=*/true);
    const auto sorted_NE = scores.score_NE.detach().gather(1, order_NE).to(at::kCPU, at::kDouble).contiguous();
    const auto expert_NE = order_NE.cpu().contiguous();
    const auto real_N = context.mask_N.defined() ? context.mask_N.cpu().contiguous() : Tensor();
    const auto* expert_of = expert_NE.const_data_ptr<int64_t>();
    const auto* score_of = sorted_NE.const_data_ptr<double>();
    const auto* real = real_N.defined() ? real_N.const_data_ptr<bool>() : nullptr;
    const auto N = sorted_NE.size(0), E = sorted_NE.size(1);
    std::vector<int64_t> token, expert, rank;
    std::vector<double> score, margin;
    for (int64_t n = 0; n < N; ++n) {
      if (real && !real[n]) continue;
      const auto* s = score_of + n * E;
      double sum = 0;
      for (int64_t i = 0; i < limit_ && (i == 0 || sum < config_.p); ++i) {
        sum += s[i];
        token.push_back(n), expert.push_back(expert_of[n * E + i]), rank.push_back(i);
        score.push_back(s[i]), margin.push_back(s[i] - rival(s, i, E));
      }
    }
    const auto device = scores.score_NE.device();
    const auto ints = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
    const auto floats = [&](const std::vector<double>& v) {
      return at::tensor(v, at::kDouble).to(scores.score_NE.options().requires_grad(false));
    };
    return {ints(token), ints(expert), ints(rank), floats(score), floats(margin)};
  }
  Reasons reasons(const Scores& scores, const Tensor&, const Context&) override {
    const auto order_NE = scores.score_NE.detach().argsort(/*stable=*/true, /*dim=*/1, /*descending=*/true);
    const auto sorted_NE = scores.score_NE.detach().gather(1, order_NE).to(at::kCPU, at::kDouble).contiguous();
    auto turns_NE = at::empty_like(sorted_NE);
    const auto* sorted = sorted_NE.const_data_ptr<double>();
    auto* turns = turns_NE.mutable_data_ptr<double>();
    const auto N = sorted_NE.size(0), E = sorted_NE.size(1);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < E; ++i) turns[n * E + i] = rival(sorted + n * E, i, E);
    Reasons out{.compared_NE = scores.score_NE.detach()};
    out.turns_at_NE = at::empty_like(out.compared_NE).scatter_(1, order_NE, turns_NE.to(out.compared_NE));
    out.rule = text("each token takes its best experts until their scores sum to ", config_.p);
    if (config_.max_k > 0) out.rule += text(", at most ", config_.max_k);
    return out;
  }
  Needs needs() const override { return {.scores = {ScoreKind::softmax}}; }
  Claims claims() const override { return kTopPClaims; }
  double choices_per_token() const override { return std::min(config_.expected_k, static_cast<double>(limit_)); }

 private:
  // The score below which the i-th best is no longer needed: that of the other expert whose turn completes p, or takes
  // the last place. -inf when the others never get there.
  double rival(const double* s, int64_t i, int64_t E) const {
    double sum = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < E; ++j) {
      if (j == i) continue;
      sum += s[j], ++count;
      if (sum >= config_.p || count == limit_) return s[j];
    }
    return -std::numeric_limits<double>::infinity();
  }

  Config config_;
  int64_t limit_;
};

}  // namespace

extern constinit const Entry<Selector> selector_top_p =
    entry<TopPSelector>({.name = "top_p",
                         .paper = 59,
                         .source = "Huang 2024 (Harder Tasks Need More Experts), section 3.2",
                         .taxonomy = "gating/sparse/dynamic",
                         .summary = "experts by descending score until their sum reaches p",
                         .equation = "T = the fewest best experts with Σ_{e ∈ T} s_e ≥ p, at most max_k",
                         .claims = kTopPClaims});

}  // namespace collegium::route
