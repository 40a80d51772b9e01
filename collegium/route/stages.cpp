#include "collegium/route/stages.h"

#include <ATen/ATen.h>

#include <array>

#include "collegium/route/router.h"

namespace collegium::route {
namespace {

using Words = std::vector<std::pair<std::string, std::string>>;
std::string yes_no(bool value) {
  return value ? "yes" : "no";
}
std::string causal(bool evaluating, bool training) {
  return evaluating && !training ? "when evaluating" : yes_no(evaluating);
}
std::string text_or_nothing(const ContextNeeds& needs) {
  const auto words = needs.missing({});
  return words.empty() ? "nothing but hidden states" : words;
}

}  // namespace

UnitPrediction ExpertProbe::predict_units(const Tensor&, int64_t) {
  fail(ErrorKind::usage, "a router asks for predictions about hidden units, which experts of this kind do not give");
}

std::string ContextNeeds::missing(const ContextNeeds& there) const {
  std::vector<std::string> names;
  if (token_ids && !there.token_ids) names.emplace_back("token ids");
  if (attention && !there.attention) names.emplace_back("attention");
  if (experts && !there.experts) names.emplace_back("experts");
  if (unit_predictions && there.experts && !there.unit_predictions)
    names.emplace_back("predictions of the experts' hidden units");
  return join(names);
}

ContextNeeds given(const Context& context) {
  return {.token_ids = context.token_id_N.defined(),
          .attention = context.attention_BTT.defined(),
          .experts = context.experts != nullptr,
          .unit_predictions = context.experts && context.experts->predicts_units()};
}

int64_t n_real(const Context& context, int64_t n_tokens) {
  return context.mask_N.defined() ? context.mask_N.sum().item<int64_t>() : n_tokens;
}

Tensor only_real(const Tensor& t_NX, const Context& context) {
  return context.mask_N.defined() ? t_NX * context.mask_N.unsqueeze(1).to(t_NX.scalar_type()) : t_NX;
}

Tensor real_tokens(const Context& context, int64_t n_tokens, const at::TensorOptions& options) {
  const auto plain = options.requires_grad(false);
  return context.mask_N.defined() ? context.mask_N.to(plain) : at::ones({n_tokens}, plain);
}

at::ScalarType router_dtype(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::span<const std::string_view> enum_names(ScoreKind) {
  static constexpr std::array<std::string_view, 4> names = {"none", "softmax", "sigmoid", "relu"};
  return names;
}

std::span<const std::string_view> enum_names(Chooser) {
  static constexpr std::array<std::string_view, 3> names = {"token", "expert", "nobody"};
  return names;
}

Words Scorer::Claims::describe() const {
  return {{"causal", causal(is_causal, is_causal_in_training)},
          {"reads other tokens", yes_no(reads_other_tokens)},
          {"closes experts to some tokens", yes_no(closes_experts)},
          {"learns from the task", yes_no(learns_from_task)}};
}

Words Selector::Claims::describe() const {
  return {{"chosen by", std::string(enum_names(chooser)[static_cast<size_t>(chooser)])},
          {"reads the selection bias", yes_no(reads_bias)},
          {"balance is exact", yes_no(is_exactly_balanced)},
          {"causal", causal(is_causal, is_causal_in_training)},
          {"random", yes_no(is_random)},
          {"reads other tokens", yes_no(reads_other_tokens)}};
}

Words Capacity::Claims::describe() const {
  return {{"may drop", yes_no(may_drop)}, {"causal", yes_no(is_causal)}};
}

Words Router::Claims::describe() const {
  return {{"chosen by", std::string(enum_names(chooser)[static_cast<size_t>(chooser)])},
          {"balance is exact", yes_no(is_exactly_balanced)},
          {"causal", causal(is_causal, is_causal_in_training)},
          {"needs", text_or_nothing(needs)}};
}

}  // namespace collegium::route
