#include "collegium/layer/attend.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "collegium/kernels/experts.h"

namespace collegium::layer {
namespace {

// Which keys each query may see, [T, S], or [B, 1, T, S] where padding stands before real tokens. A token always sees
// itself, so that no row is empty.
Tensor visible(const AttentionContext& here, const at::TensorOptions& options) {
  const auto S = here.past + here.T;
  auto causal_TS = at::ones({here.T, S}, options.dtype(at::kBool)).tril(here.past);
  if (!here.key_mask_BT.defined()) return causal_TS;
  const auto itself_TS = at::eye(here.T, options).to(at::kBool);
  return causal_TS.logical_and(here.key_mask_BT.reshape({here.B, 1, 1, S})).logical_or(itself_TS);
}

}  // namespace

void extend(Tensor& key_BGTd, Tensor& value_BGTd, const AttentionContext& here, size_t first) {
  if (!here.cache) return;
  auto& kept = here.cache->tensors;
  if (kept.size() < first + 2) kept.resize(first + 2);
  if (here.past > 0) {
    key_BGTd = at::cat({kept[first], key_BGTd}, 2);
    value_BGTd = at::cat({kept[first + 1], value_BGTd}, 2);
  }
  kept[first] = key_BGTd, kept[first + 1] = value_BGTd;
}

Tensor attend(const Tensor& query_BHTd, const Tensor& key_BGSd, const Tensor& value_BGSd, const AttentionContext& here,
              Tensor& attention_BTT) {
  const auto H = query_BHTd.size(1), d = query_BHTd.size(3), G = key_BGSd.size(1);
  const auto options = query_BHTd.options();
  attention_BTT.reset();
  if (here.needs_probabilities) {
    const auto wide = [&](const Tensor& t_BGSd) { return H == G ? t_BGSd : t_BGSd.repeat_interleave(H / G, 1); };
    const auto score_BHTS = at::matmul(query_BHTd, wide(key_BGSd).transpose(2, 3)) / std::sqrt(static_cast<double>(d));
    const auto share_BHTS =
        score_BHTS.to(route::router_dtype(score_BHTS))
            .masked_fill(visible(here, options).logical_not(), -std::numeric_limits<float>::infinity())
            .softmax(-1);
    attention_BTT = share_BHTS.mean(1);
    return at::matmul(share_BHTS.to(options.dtype()), wide(value_BGSd))
        .transpose(1, 2)
        .reshape({here.B * here.T, H * d});
  }
  std::optional<Tensor> mask;
  if ((here.past > 0 && here.T > 1) || here.key_mask_BT.defined()) mask = visible(here, options);
  const auto mixed_BHTd = at::scaled_dot_product_attention(query_BHTd, key_BGSd, value_BGSd, mask, 0.0,
                                                           /*is_causal=*/here.past == 0 && !mask, std::nullopt,
                                                           /*enable_gqa=*/H != G);
  return mixed_BHTd.transpose(1, 2).reshape({here.B * here.T, H * d});
}

std::unique_ptr<route::Router> make_head_router(std::string_view who, const Named& router, int64_t n_heads,
                                                const Random& random, const Attention::Inputs& in) {
  auto made = find(route::routers(), router, "router")
                  .make(router, {.d_model = in.d_model,
                                 .n_experts = n_heads,
                                 .random = random,
                                 .options = in.options,
                                 .corpus = in.corpus});
  const auto needs = made->facts().needs;
  require(!needs.attention && !needs.experts, who, ": router '", router.name, "' needs ",
          needs.missing({.token_ids = true}), ", which a router of heads cannot have");
  return made;
}

DenseHeads::DenseHeads(int64_t H, int64_t G, int64_t d, const Attention::Inputs& in) : H_(H), G_(G), d_(d) {
  const auto normal = [&](std::string_view name, at::IntArrayRef sizes, double std) {
    return in.random.at(name).normal(sizes, std, in.options).requires_grad_(true);
  };
  qkv_XD_ = normal("qkv", {(H + 2 * G) * d, in.d_model}, in.init_std);
  out_DX_ = normal("out", {in.d_model, H * d}, in.branch_std);
}

Tensor DenseHeads::forward(const Tensor& x_ND, const AttentionContext& here, Tensor& attention_BTT) const {
  const auto dtype = x_ND.scalar_type();
  const auto qkv = kernels::linear(x_ND, qkv_XD_.to(dtype)).view({here.B, here.T, H_ + 2 * G_, d_});
  const auto query_BHTd = kernels::rotate(qkv.slice(2, 0, H_), here.rotation).transpose(1, 2);
  auto key_BGSd = kernels::rotate(qkv.slice(2, H_, H_ + G_), here.rotation).transpose(1, 2);
  auto value_BGSd = qkv.slice(2, H_ + G_, H_ + 2 * G_).transpose(1, 2);
  extend(key_BGSd, value_BGSd, here);
  return kernels::linear(attend(query_BHTd, key_BGSd, value_BGSd, here, attention_BTT), out_DX_.to(dtype));
}

AttentionFacts DenseHeads::facts(int64_t context_length, at::ScalarType dtype) const {
  const auto projections = static_cast<double>(qkv_XD_.numel() + out_DX_.numel());
  const auto width = static_cast<double>(H_ * d_);
  return {.d_head = d_,
          .parameters_active = projections,
          // A token looks at half the context on average: scores and mixing, two operations each.
          .flops_per_token = 2 * projections + 2 * width * static_cast<double>(context_length),
          .cache_bytes_per_token = static_cast<double>(2 * G_ * d_) * static_cast<double>(c10::elementSize(dtype)),
          .activations_per_token = 6 * width};
}

void DenseHeads::collect(ParameterList& list) {
  list.parameter("qkv", qkv_XD_);
  list.parameter("out", out_DX_);
}

}  // namespace collegium::layer
