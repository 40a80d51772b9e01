// Top-k with a number of experts of the token's own: more for tokens that attention finds important, fewer for others,
// `budget` on average. P029 (DA-MoE), section 3: importance comes from the attention weights, mean over the heads.
//
// The paper's measure of a token is the attention that it receives from all tokens. In a language model, queries after
// it would tell about the future, and of what is left (no earlier query may look ahead) only the attention that the
// token pays to itself is received by it. So `importance`:
//   own        a[t, t] times the number of tokens it could look at (1 = it looks everywhere alike); its rank among the
//              tokens up to t of its sequence decides. Causal. For importances in random order the mean number of
//              experts at position t differs from the budget by at most (max_k - min_k) / (2 (t + 1)). Learned
//              attention has no random order (how much a token looks at itself drifts along the sequence), so what the
//              tokens before took beyond the budget, divided by `slack`, is subtracted from the rank. Ranks lie between
//              0 and 1, so the experts of n tokens are budget * n up to slack + max_k - min_k, whatever the attention.
//   received   the paper's: sum over all queries; the rank in the whole batch decides, so that the mean is the budget
//   up to
//              rounding. Not causal: for encoders.
// A rank is mapped to a number of experts by a staircase between min_k and max_k whose mean is the budget: step j is at
// the rank (j / (S + 1))^c, S = max_k - min_k, with c found when built. Assumed: the paper gives no rule with a budget.
//
// N tokens, B sequences of T tokens, E experts, S steps, M = max_k, A assignments.
#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "collegium/kernels/top_k.h"
#include "collegium/route/gather.h"
#include "collegium/route/stages.h"
#include "collegium/route/turning.h"

namespace collegium::route {
namespace {

enum class Importance { own, received };
std::span<const std::string_view> enum_names(Importance) {
  static constexpr std::array<std::string_view, 2> names = {"own", "received"};
  return names;
}

constexpr Selector::Claims kImportanceClaims = {
    .chooser = Chooser::token, .reads_bias = true, .asks_fixed_number = false, .reads_other_tokens = true};

// Ranks in [0, 1] at which one more expert comes in; their distances to 1 sum to budget - min_k.
std::vector<double> staircase(double budget, int64_t min_k, int64_t max_k) {
  const auto S = max_k - min_k;
  const auto steps = [&](double c) {
    std::vector<double> out;
    for (int64_t j = 1; j <= S; ++j) out.push_back(std::pow(static_cast<double>(j) / static_cast<double>(S + 1), c));
    return out;
  };
  const auto mean = [&](double c) {
    auto k = static_cast<double>(min_k);
    for (const auto step : steps(c)) k += 1 - step;
    return k;
  };
  // The mean falls from S to nothing as c falls from infinity to zero.
  double low = -40, high = 40;  // log c
  for (int i = 0; i < 200; ++i) {
    const auto middle = (low + high) / 2;
    (mean(std::exp(middle)) < budget ? low : high) = middle;
  }
  return steps(std::exp((low + high) / 2));
}

class ImportanceTopKSelector final : public Selector, public Makes<ImportanceTopKSelector, Selector> {
 public:
  using Interface = Selector;
  struct Config {
    double budget = 2;
    int64_t min_k = 1;
    int64_t max_k = 4;
    Importance importance = Importance::own;
    double slack = 16;
    void visit(Fields& field) {
      field("budget", budget, {.help = "experts per token on average", .unit = "experts", .min = 1});
      field("min_k", min_k, {.help = "experts of the least important tokens", .unit = "experts", .min = 1});
      field("max_k", max_k, {.help = "experts of the most important tokens", .unit = "experts", .min = 1});
      field(
          "importance", importance,
          {.help =
               "attention to itself, ranked so far (causal), or received from all, ranked in the batch (the paper's)"});
      field("slack", slack,
            {.help = "importance = own: how far a sequence may be over or under its budget, up to max_k - min_k",
             .unit = "experts",
             .min = 1});
    }
  };

  ImportanceTopKSelector(const Config& config, const StageInputs& in) : config_(config) {
    require(config.min_k <= config.budget && config.budget <= static_cast<double>(config.max_k),
            "importance_top_k: budget = ", config.budget, " must lie between min_k = ", config.min_k,
            " and max_k = ", config.max_k);
    require(config.max_k <= in.n_experts, "importance_top_k: max_k = ", config.max_k, " is more than the ",
            in.n_experts, " experts there are");
    step_S_ = staircase(config.budget, config.min_k, config.max_k);
  }

  Assignments select(const Scores& scores, const Tensor& bias_E, const Context& context) override {
    auto compared_NE = scores.score_NE.detach();
    if (bias_E.defined()) compared_NE = compared_NE + bias_E.detach().to(compared_NE);
    const auto N = compared_NE.size(0), M = config_.max_k;
    const auto chosen = kernels::top_k(compared_NE, M);
    const auto k_N = numbers_of_experts(context, N);

    const auto rank_M = at::arange(M, k_N.options());
    const auto next_NM = at::cat({chosen.score_NK, chosen.runner_up_N.unsqueeze(1)}, 1);
    const auto runner_up_N1 = next_NM.gather(1, k_N.unsqueeze(1));
    return token_choices(chosen.expert_NK, chosen.score_NK, chosen.score_NK - runner_up_N1, Tensor(),
                         rank_M.unsqueeze(0).lt(k_N.unsqueeze(1)));
  }
  Reasons reasons(const Scores& scores, const Tensor& bias_E, const Context& context) override {
    Reasons out{.compared_NE = scores.score_NE.detach(),
                .rule = text("attention says how many experts a token takes, ", config_.min_k, " to ", config_.max_k,
                             ": its best ones")};
    if (bias_E.defined()) out.compared_NE = out.compared_NE + bias_E.detach().to(out.compared_NE);
    out.turns_at_NE = kth_of_others(out.compared_NE, numbers_of_experts(context, out.compared_NE.size(0)).unsqueeze(1));
    return out;
  }
  Needs needs() const override {
    return {.scores = {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}, .context = {.attention = true}};
  }
  Claims claims() const override {
    auto out = kImportanceClaims;
    out.is_causal = out.is_causal_in_training = config_.importance == Importance::own;
    return out;
  }
  double choices_per_token() const override { return config_.budget; }

 private:
  // How many experts each token gets; none where it is masked. [N]
  Tensor numbers_of_experts(const Context& context, int64_t N) const {
    const auto& attention_BTT = context.attention_BTT;
    const auto B = attention_BTT.size(0), T = attention_BTT.size(1);
    require(B * T == N, "importance_top_k: attention over ", B, " sequences of ", T,
            " tokens is for another batch than ", N, " tokens");
    const auto options = at::TensorOptions().dtype(at::kDouble).device(attention_BTT.device());
    const auto given_BTT = attention_BTT.detach().to(options);
    const auto real_BT = real_tokens(context, N, options).reshape({B, T});
    const auto k_N = (config_.importance == Importance::own ? by_rank_so_far(given_BTT, real_BT)
                                                            : by_rank_in_batch(given_BTT, real_BT));
    return (k_N * real_BT.reshape({-1})).to(at::kLong);
  }

  Tensor by_rank_so_far(const Tensor& attention_BTT, const Tensor& real_BT) const {
    const auto importance_BT = attention_BTT.diagonal(0, 1, 2) * real_BT.cumsum(1);
    // below_BT[b, t]: how many earlier tokens matter less; equals count half.
    const auto mine = importance_BT.unsqueeze(2), others = importance_BT.unsqueeze(1);
    const auto earlier_BTT = (mine.gt(others).to(real_BT) + 0.5 * mine.eq(others).to(real_BT)).tril(-1);
    const auto below_BT = at::matmul(earlier_BTT, real_BT.unsqueeze(2)).squeeze(2);
    const auto rank_BT = (below_BT + 0.5) / real_BT.cumsum(1).clamp_min(1);
    return within_budget(rank_BT, real_BT).to(real_BT.device()).reshape({-1});
  }

  // Ranks to numbers of experts along each sequence; what was taken beyond the budget lowers the ranks that follow.
  Tensor within_budget(const Tensor& all_BT, const Tensor& real_BT) const {
    const auto rank_BT = all_BT.cpu().contiguous(), counts_BT = real_BT.cpu().contiguous();
    const auto B = rank_BT.size(0), T = rank_BT.size(1);
    auto k_BT = at::empty({B, T}, rank_BT.options());
    const auto *rank = rank_BT.const_data_ptr<double>(), *counts = counts_BT.const_data_ptr<double>();
    auto* k = k_BT.mutable_data_ptr<double>();
    for (int64_t b = 0; b < B; ++b) {
      double debt = 0;
      for (int64_t i = b * T; i < (b + 1) * T; ++i) {
        const auto due = rank[i] - debt / config_.slack;
        k[i] = static_cast<double>(config_.min_k);
        for (const auto step : step_S_) k[i] += due >= step ? 1 : 0;
        debt += counts[i] * (k[i] - config_.budget);
      }
    }
    return k_BT;
  }

  Tensor by_rank_in_batch(const Tensor& attention_BTT, const Tensor& real_BT) const {
    const auto queries_BT1 = real_BT.unsqueeze(2);
    const auto importance_N = (attention_BTT * queries_BT1).sum(1).masked_fill(real_BT.eq(0), -1).reshape({-1});
    const auto order_N = std::get<1>(importance_N.sort(/*stable=*/true, /*dim=*/0, /*descending=*/true));
    const auto n_real = real_BT.sum().item<double>();
    auto k_N = at::full_like(importance_N, static_cast<double>(config_.min_k));
    for (const auto step : step_S_)
      k_N.index_add_(0, order_N.slice(0, 0, std::llround((1 - step) * n_real)),
                     at::ones({std::llround((1 - step) * n_real)}, k_N.options()));
    return k_N;
  }

  Config config_;
  std::vector<double> step_S_;
};

}  // namespace

extern constinit const Entry<Selector> selector_importance_top_k = entry<ImportanceTopKSelector>(
    {.name = "importance_top_k",
     .paper = 29,
     .source = "Akhavan Aghdam 2024 (DA-MoE), section 3",
     .taxonomy = "gating/sparse/dynamic number of experts",
     .summary = "more experts for tokens that attention finds important, on a budget",
     .equation = "T = top-k_t(s + b),  k_t = min_k + number of j ≤ S with r_t - d_t / slack ≥ (j / (S + 1))^c\n"
                 "S = max_k - min_k,  c by the budget,  r: rank so far of t · attention_tt,  d: experts beyond budget",
     .claims = kImportanceClaims});

}  // namespace collegium::route
