#include "collegium/model/depth.h"

#include <ATen/ATen.h>

#include <cmath>

#include "collegium/kernels/experts.h"

namespace collegium::model {

using layer::TokenChoice;

std::span<const std::string_view> enum_names(DepthChoice) {
  static constexpr std::string_view kNames[] = {"sequence", "so_far", "predicted"};
  return kNames;
}

void DepthConfig::visit(Fields& field) {
  field("sparsity", sparsity,
        {.help = "such a block works for one token in so many; 1 = no block is routed", .min = 1});
  field("first", first, {.help = "first block that is routed, counted from 0", .min = 0});
  field("every", every, {.help = "from there on, every so many blocks", .min = 1});
  field("training", training, {.help = "whom a token is compared with in training: expert choice, or tokens before"});
  field("evaluation", evaluation,
        {.help = "who is taken for held-out loss and generation; sequence looks at later tokens"});
  field("predictor", predictor,
        {.help = "weight of the predictor's loss; its gradient stops before the model", .min = 0});
}

DepthRouter::DepthRouter(const DepthConfig& config, int64_t d_model, double init_std, const Random& random,
                         const at::TensorOptions& options)
    : config_(config), quota_{.sparsity = config.sparsity, .least = 1} {
  const auto normal = [&](std::string_view name, at::IntArrayRef sizes, double std) {
    return random.at(name).normal(sizes, std, options).requires_grad_(true);
  };
  router_1D_ = normal("router", {1, d_model}, init_std);
  if (config.evaluation != DepthChoice::predicted) return;
  const auto H = std::max<int64_t>(1, d_model / 4);
  inner_HD_ = normal("inner", {H, d_model}, 1 / std::sqrt(static_cast<double>(d_model)));
  outer_1H_ = normal("outer", {1, H}, 1 / std::sqrt(static_cast<double>(H)));
  // At first as many are predicted as are taken.
  bias_1_ = at::full({1}, -std::log(std::max(config.sparsity - 1, 1e-3)), options).requires_grad_(true);
}

DepthRouter::Taken DepthRouter::take(const Tensor& x_ND, const route::Context& routing, int64_t B, int64_t T,
                                     PassedTokens* before) const {
  const auto N = B * T;
  const auto type = route::router_dtype(x_ND);
  const auto input_ND = x_ND.to(type);
  const auto score_N = at::sigmoid(kernels::linear(input_ND, router_1D_.to(type))).view({N});
  const auto score_1BT = score_N.view({1, B, T});
  const auto mask_BT = routing.mask_N.defined() ? routing.mask_N.view({B, T}) : Tensor();
  const bool trains = route::trains(routing);
  require(!before || (!trains && is_causal()), "decoder: with a cache, a mixture of depths must choose causally");
  Taken out;
  Tensor logit_N;
  if (inner_HD_.defined()) {
    const auto hidden = at::silu(kernels::linear(input_ND.detach(), inner_HD_.to(type)));
    logit_N = (kernels::linear(hidden, outer_1H_.to(type)) + bias_1_.to(type)).view({N});
  }
  Tensor chosen_1BT;
  if (trains)
    chosen_1BT = layer::choose_tokens(config_.training, score_1BT, mask_BT, quota_);
  else if (config_.evaluation == DepthChoice::predicted)
    chosen_1BT = logit_N.gt(0).view({1, B, T});
  else if (before && before->score_1BP.defined())
    chosen_1BT = layer::choose_more(score_1BT, before->score_1BP, before->count_1B, quota_);
  else
    chosen_1BT =
        layer::choose_tokens(config_.evaluation == DepthChoice::sequence ? TokenChoice::sequence : TokenChoice::so_far,
                             score_1BT, mask_BT, quota_);
  if (mask_BT.defined()) chosen_1BT = chosen_1BT.logical_and(mask_BT);
  if (before) {
    if (config_.evaluation == DepthChoice::so_far) {
      const auto score = score_1BT.detach();
      before->score_1BP = before->score_1BP.defined() ? at::cat({before->score_1BP, score}, 2) : score;
    }
    const auto count_1B = chosen_1BT.sum(2);
    before->count_1B = before->count_1B.defined() ? before->count_1B + count_1B : count_1B;
  }
  out.taken_N = chosen_1BT.view({N});
  if (trains && logit_N.defined() && config_.predictor > 0) {
    const auto real_N = route::real_tokens(routing, N, logit_N.options());
    const auto off_N = at::binary_cross_entropy_with_logits(logit_N, out.taken_N.to(type), {}, {}, at::Reduction::None);
    const auto loss = (off_N * real_N).sum() / real_N.sum().clamp_min(1);
    out.losses.push_back({.name = "depth_predictor", .value = loss * config_.predictor, .raw = loss.item<double>()});
  }
  out.tokens = layer::places_of(chosen_1BT);
  const auto& index_1BK = out.tokens.index_EBK;
  out.token_M = (index_1BK + at::arange(0, N, T, index_1BK.options()).unsqueeze(1)).reshape({-1});
  out.live_M = out.tokens.live_EBK.reshape({-1});
  out.gate_M = score_N.index_select(0, out.token_M) * out.live_M;
  return out;
}

double DepthRouter::parameters() const {
  double n = 0;
  for (const auto* t : {&router_1D_, &inner_HD_, &outer_1H_, &bias_1_})
    if (t->defined()) n += static_cast<double>(t->numel());
  return n;
}

void DepthRouter::collect(ParameterList& list) {
  list.parameter("router", router_1D_, ParameterKind::embedding);
  if (!inner_HD_.defined()) return;
  list.parameter("predictor_inner", inner_HD_);
  list.parameter("predictor_outer", outer_1H_, ParameterKind::embedding);
  list.parameter("predictor_bias", bias_1_, ParameterKind::vector);
}

}  // namespace collegium::model
