#include "collegium/layer/product_keys.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/product_top_k.h"
#include "collegium/kernels/router_linear.h"
#include "collegium/route/gather.h"

namespace collegium::layer {
namespace {

constexpr double kEpsilon = 1e-5, kMomentum = 0.1;  // torch's BatchNorm1d

// What the three stages hand on: tables of scores, then weights by (token, rank).
struct Found {
  Tensor first_LS, second_LS;  // of each head after the other: L = H N
  Tensor weight_NM;
};

// Zero mean and unit variance over the real tokens of a batch; when evaluating, over those seen in training.
class RunningNorm {
 public:
  RunningNorm(int64_t width, const at::TensorOptions& options)
      : mean_C_(at::zeros({width}, options)), variance_C_(at::ones({width}, options)) {}

  Tensor forward(const Tensor& x_NC, const route::Context& context) {
    const auto real_NC = context.mask_N.defined() && context.phase != route::Phase::evaluate
                             ? x_NC.index_select(0, context.mask_N.nonzero().flatten())
                             : x_NC;
    if (context.phase == route::Phase::evaluate || real_NC.size(0) == 0)
      return (x_NC - mean_C_.to(x_NC)) * (variance_C_.to(x_NC) + kEpsilon).rsqrt();
    const auto mean_C = real_NC.mean(0), variance_C = (real_NC - mean_C).square().mean(0);
    if (context.phase == route::Phase::train) observe(mean_C.detach(), variance_C.detach(), real_NC.size(0));
    return (x_NC - mean_C) * (variance_C + kEpsilon).rsqrt();
  }
  void collect(ParameterList& list) {
    list.buffer("mean", mean_C_);
    list.buffer("variance", variance_C_);
  }

 private:
  void observe(const Tensor& mean_C, const Tensor& variance_C, int64_t n) {
    const at::NoGradGuard no_grad;
    const auto unbiased = n > 1 ? static_cast<double>(n) / static_cast<double>(n - 1) : 1.0;
    mean_C_.lerp_(mean_C.to(mean_C_), kMomentum);
    variance_C_.lerp_((variance_C * unbiased).to(variance_C_), kMomentum);
  }

  Tensor mean_C_, variance_C_;
};

class GridScorer final : public route::Scorer {
 public:
  GridScorer(const ProductKeyConfig& config, int64_t side, const MoeLayer::Inputs& in, Found* found)
      : config_(config),
        side_(side),
        norm_(config.d_key > 0 ? 2 * config.heads * config.d_key : 2 * side, in.options),
        found_(found) {
    const auto H = config.heads, D = in.d_model, C = config.d_key;
    const auto random = in.random.at("router").at("scorer");
    const auto normal = [&](std::string_view name, at::IntArrayRef sizes) {
      const auto std = 1 / std::sqrt(static_cast<double>(sizes.back()));
      return random.at(name).normal(sizes, std, in.options).requires_grad_(true);
    };
    if (C > 0) query_QD_ = normal("query", {2 * H * C, D});
    key_GSC_ = normal("key", {2 * H, side, C > 0 ? C : D});
  }

  route::Scores score(const Tensor& x_ND, const route::Context& context) override {
    const auto dtype = route::router_dtype(x_ND);
    const auto N = x_ND.size(0), H = config_.heads, C = config_.d_key;
    const auto key_GSC = key_GSC_.to(dtype);
    if (C > 0) {
      auto query_NQ = kernels::router_linear(x_ND.to(dtype), query_QD_.to(dtype));
      if (config_.batch_norm) query_NQ = norm_.forward(query_NQ, context);
      const auto query_RC = query_NQ.view({N, 2 * H, C}).transpose(0, 1).reshape({2 * H * N, C});
      const auto score_GNS =
          kernels::grouped_linear(query_RC, key_GSC, at::arange(2 * H + 1, at::kLong) * N).view({H, 2, N, side_});
      found_->first_LS = score_GNS.select(1, 0).reshape({H * N, side_});
      found_->second_LS = score_GNS.select(1, 1).reshape({H * N, side_});
    } else {
      auto score_NG = kernels::router_linear(x_ND.to(dtype), key_GSC.view({2 * side_, -1}));
      if (config_.batch_norm) score_NG = norm_.forward(score_NG, context);
      found_->first_LS = score_NG.slice(1, 0, side_), found_->second_LS = score_NG.slice(1, side_);
    }
    if (config_.weight == ProductWeight::probability) {
      found_->first_LS = found_->first_LS.log_softmax(1);
      found_->second_LS = found_->second_LS.log_softmax(1);
    }
    return {};
  }
  route::ScoreKind kind() const override { return route::ScoreKind::none; }
  Claims claims() const override { return {.is_causal_in_training = !config_.batch_norm}; }
  double flops_per_token() const override {
    return 2.0 * static_cast<double>(key_GSC_.numel() + (config_.d_key > 0 ? query_QD_.numel() : 0));
  }
  void collect(ParameterList& list) override {
    if (config_.d_key > 0) list.parameter("query", query_QD_);
    list.parameter("key", key_GSC_, ParameterKind::embedding);
    if (config_.batch_norm) list.child("norm", norm_);
  }

 private:
  ProductKeyConfig config_;
  int64_t side_;
  RunningNorm norm_;
  Found* found_;
  Tensor query_QD_, key_GSC_;
};

// A token's experts, each once: where the weight of each choice goes, and the choices that come first. The heads' first
// choices come before their second ones.
struct Merged {
  Tensor rank_NM;  // by choice, head by head
  route::Assignments asked;
};

template <class C>
void merge_tokens(const Tensor& expert_NM, const Tensor& score_NM, const Tensor& margin_NM, const Tensor& mask_N,
                  int64_t heads, Merged& out) {
  const auto N = expert_NM.size(0), M = expert_NM.size(1), K = M / heads;
  const auto* expert = expert_NM.const_data_ptr<int64_t>();
  const auto* is_real = mask_N.defined() ? mask_N.const_data_ptr<bool>() : nullptr;
  auto* rank = out.rank_NM.mutable_data_ptr<int64_t>();
  std::vector<int64_t> start(static_cast<size_t>(N) + 1);
  auto first_NM = at::zeros({N, M}, at::kBool);
  auto* is_first = first_NM.mutable_data_ptr<bool>();
  at::parallel_for(0, N, 1 + 4096 / M, [&](int64_t begin, int64_t end) {
    // Open addressing, at most half full.
    const auto places = static_cast<size_t>(2 * std::bit_ceil(static_cast<uint64_t>(M)));
    std::vector<int64_t> id(places), place_rank(places);
    for (int64_t n = begin; n < end; ++n) {
      std::fill(id.begin(), id.end(), -1);
      int64_t count = 0;
      for (int64_t j = 0; j < K; ++j)
        for (int64_t h = 0; h < heads; ++h) {
          const auto at = n * M + h * K + j;
          auto p = (static_cast<uint64_t>(expert[at]) * 0x9e3779b97f4a7c15u >> 32) & (places - 1);
          while (id[p] >= 0 && id[p] != expert[at]) p = (p + 1) & (places - 1);
          is_first[at] = id[p] < 0;
          if (is_first[at]) id[p] = expert[at], place_rank[p] = count++;
          rank[at] = place_rank[p];
        }
      start[static_cast<size_t>(n) + 1] = !is_real || is_real[n] ? count : 0;
    }
  });
  for (size_t n = 0; n < static_cast<size_t>(N); ++n) start[n + 1] += start[n];
  const auto R = start.back();
  auto& a = out.asked;
  for (auto* t : {&a.token_A, &a.expert_A, &a.rank_A}) *t = at::empty({R}, at::kLong);
  for (auto* t : {&a.score_A, &a.margin_A}) *t = at::empty({R}, score_NM.options());
  auto *to_token = a.token_A.template mutable_data_ptr<int64_t>(),
       *to_expert = a.expert_A.template mutable_data_ptr<int64_t>(),
       *to_rank = a.rank_A.template mutable_data_ptr<int64_t>();
  auto *to_score = a.score_A.template mutable_data_ptr<C>(), *to_margin = a.margin_A.template mutable_data_ptr<C>();
  const auto *score = score_NM.const_data_ptr<C>(), *margin = margin_NM.const_data_ptr<C>();
  at::parallel_for(0, N, 1 + 4096 / M, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const auto from = start[static_cast<size_t>(n)];
      if (start[static_cast<size_t>(n) + 1] == from) continue;
      for (int64_t at = n * M; at < (n + 1) * M; ++at) {
        if (!is_first[at]) continue;
        const auto to = from + rank[at];
        to_token[to] = n, to_expert[to] = expert[at], to_rank[to] = rank[at];
        to_score[to] = score[at], to_margin[to] = margin[at];
      }
    }
  });
}

Merged merge_heads(const Tensor& expert_NM, const Tensor& score_NM, const Tensor& margin_NM, const Tensor& mask_N,
                   int64_t heads) {
  Merged out{.rank_NM = at::empty(expert_NM.sizes(), at::kLong)};
  const auto cpu = [](const Tensor& t) { return t.defined() ? t.cpu().contiguous() : t; };
  const auto expert = cpu(expert_NM), score = cpu(score_NM), margin = cpu(margin_NM), mask = cpu(mask_N);
  if (score.scalar_type() == at::kDouble)
    merge_tokens<double>(expert, score, margin, mask, heads, out);
  else
    merge_tokens<float>(expert, score, margin, mask, heads, out);
  for (auto* t : {&out.rank_NM, &out.asked.token_A, &out.asked.expert_A, &out.asked.rank_A, &out.asked.score_A,
                  &out.asked.margin_A})
    *t = t->to(expert_NM.device());
  return out;
}

class GridSelector final : public route::Selector {
 public:
  GridSelector(const ProductKeyConfig& config, int64_t side, Found* found)
      : config_(config), side_(side), found_(found) {}

  route::Assignments select(const route::Scores&, const Tensor&, const route::Context& context) override {
    const auto first_LS = std::move(found_->first_LS), second_LS = std::move(found_->second_LS);
    const auto H = config_.heads, K = config_.k, N = first_LS.size(0) / H;
    const auto top = kernels::product_top_k(first_LS, second_LS, K);
    const auto sum_LK =
        first_LS.gather(1, top.cell_NK.div(side_, "floor")) + second_LS.gather(1, top.cell_NK.remainder(side_));
    auto weight_LK = config_.weight == ProductWeight::probability ? sum_LK.exp() : sum_LK.softmax(1);
    if (config_.scale != 1) weight_LK = weight_LK * config_.scale;
    const auto margin_LK = top.score_NK - top.runner_up_N.unsqueeze(1);
    if (H == 1) {
      found_->weight_NM = weight_LK;
      return route::token_choices(top.cell_NK, top.score_NK, margin_LK, context.mask_N);
    }
    const auto by_token = [&](const Tensor& t_LK) { return t_LK.view({H, N, K}).transpose(0, 1).reshape({N, H * K}); };
    auto merged = merge_heads(by_token(top.cell_NK), by_token(top.score_NK), by_token(margin_LK), context.mask_N, H);
    const auto weight_NM = by_token(weight_LK);
    found_->weight_NM = at::zeros_like(weight_NM.detach()).scatter_add(1, merged.rank_NM, weight_NM);
    return std::move(merged.asked);
  }
  route::Reasons reasons(const route::Scores&, const Tensor&, const route::Context&) override {
    const auto heads = config_.heads > 1 ? text("each of ", config_.heads, " heads") : std::string("each token");
    return {.rule =
                text(heads, " takes the ", config_.k, " best cells of a grid of experts, each scored by the sum of ",
                     "its row's and its column's score")};
  }
  route::Needs needs() const override { return {}; }
  Claims claims() const override { return {.asks_fixed_number = config_.heads == 1}; }
  double choices_per_token() const override { return static_cast<double>(config_.heads * config_.k); }

 private:
  ProductKeyConfig config_;
  int64_t side_;
  Found* found_;
};

class GridGate final : public route::Gate {
 public:
  explicit GridGate(std::shared_ptr<Found> found) : found_(std::move(found)) {}
  Tensor weigh(const route::Scores&, const route::Decision& d, const route::Context&) override {
    const auto weight_NM = std::move(found_->weight_NM);
    return weight_NM.reshape({-1}).index_select(0, d.token_R() * weight_NM.size(1) + d.rank_R());
  }
  route::Needs needs() const override { return {}; }

 private:
  std::shared_ptr<Found> found_;
};

}  // namespace

std::span<const std::string_view> enum_names(ProductWeight) {
  static constexpr std::array<std::string_view, 2> names = {"probability", "share"};
  return names;
}

std::unique_ptr<route::Router> product_key_router(const ProductKeyConfig& config, const MoeLayer::Inputs& in) {
  const auto side = std::llround(std::sqrt(static_cast<double>(config.n_experts)));
  require(side * side == config.n_experts, config.who, ": n_experts must be a square, as 1024 = 32 * 32, got ",
          config.n_experts);
  require(config.k <= config.n_experts, config.who, ": k = ", config.k, " is more than the ", config.n_experts,
          " experts there are");
  const auto found = std::make_shared<Found>();
  const route::StageInputs stage{.d_model = in.d_model, .n_experts = config.n_experts, .options = in.options};
  const Named unlimited{.name = "unlimited"};
  route::Stages stages;
  stages.scorer = std::make_unique<GridScorer>(config, side, in, found.get());
  stages.selector = std::make_unique<GridSelector>(config, side, found.get());
  stages.capacity = find(route::capacities(), unlimited, "capacity").make(unlimited, stage);
  stages.gate = std::make_unique<GridGate>(found);
  stages.names = {"product keys", "product keys", "unlimited", "product keys"};
  return std::make_unique<route::Router>(std::move(stages), config.n_experts);
}

}  // namespace collegium::layer
