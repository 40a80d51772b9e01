#include "collegium/layer/activations.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace collegium::layer {
namespace {

constexpr double kNearZero = 0.1;
constexpr int64_t kSampled = 256;

// At most kSampled of the real tokens, evenly spaced, ascending.
Tensor sampled_tokens(const route::Context& context, int64_t N, const at::Device& device) {
  const auto ints = at::TensorOptions(at::kLong).device(device);
  const auto real = context.mask_N.defined() ? context.mask_N.nonzero().flatten() : at::arange(N, ints);
  const auto n = real.size(0);
  return n <= kSampled ? real : real.index_select(0, (at::arange(kSampled, ints) * n).floor_divide(kSampled));
}

}  // namespace

void add_statistic(std::vector<Statistic>& all, std::string_view name, double sum, double weight) {
  auto found = std::find_if(all.begin(), all.end(), [&](const Statistic& s) { return s.name == name; });
  if (found == all.end()) found = all.insert(found, {.name = std::string(name)});
  found->sum += sum, found->weight += weight;
}

void add_activations(std::vector<Statistic>& all, const Tensor& hidden_RI) {
  const at::NoGradGuard no_grad;
  const auto size_RI = hidden_RI.to(at::kDouble).abs();
  const auto units = static_cast<double>(size_RI.numel());
  const auto count = [](const Tensor& is_RI) { return static_cast<double>(is_RI.sum().item<int64_t>()); };
  add_statistic(all, "active_units", count(size_RI.gt(kNearZero)), units);
  add_statistic(all, "nonzero_units", count(size_RI.gt(0)), units);
  const auto effective_R = size_RI.sum(1).square() / size_RI.square().sum(1).clamp_min(1e-300);
  add_statistic(all, "effective_units", effective_R.sum().item<double>(), units);
}

void show_activations(LayerOutput& out, Experts& experts, const Tensor& x_ND, const route::Decision& decision,
                      const route::Context& context) {
  if (!context.record) return;
  const at::NoGradGuard no_grad;
  const auto N = x_ND.size(0);
  auto is_sampled_N = at::zeros({N}, x_ND.options().dtype(at::kBool));
  is_sampled_N.index_fill_(0, sampled_tokens(context, N, x_ND.device()), true);
  const auto* offset = decision.offset_E1().const_data_ptr<int64_t>();
  for (int64_t e = 0; e < decision.n_experts(); ++e) {
    const auto token_T = decision.token_R().slice(0, offset[e], offset[e + 1]);
    const auto sampled_T = token_T.masked_select(is_sampled_N.index_select(0, token_T));
    if (sampled_T.size(0) > 0) add_activations(out.statistics, experts.hidden(x_ND.index_select(0, sampled_T), e));
  }
}

void show_activations(LayerOutput& out, Experts& experts, const Tensor& x_ND, int64_t expert,
                      const route::Context& context) {
  if (!context.record) return;
  const at::NoGradGuard no_grad;
  const auto sampled = sampled_tokens(context, x_ND.size(0), x_ND.device());
  if (sampled.size(0) > 0) add_activations(out.statistics, experts.hidden(x_ND.index_select(0, sampled), expert));
}

}  // namespace collegium::layer
