#include "cli/bench/experts.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "collegium/base/error.h"
#include "collegium/base/random.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/group.h"

namespace collegium::cli {
namespace {

// k different experts for each token, drawn by weight.
Tensor draw_experts(const ExpertShape& is, Skew skew, const Random& random) {
  auto expert_Tk = at::empty({is.tokens, is.k}, at::kLong);
  auto* out = expert_Tk.mutable_data_ptr<int64_t>();
  std::vector<std::pair<double, int64_t>> key(static_cast<size_t>(is.experts));
  uint64_t draw = 0;
  for (int64_t t = 0; t < is.tokens; ++t) {
    for (int64_t e = 0; e < is.experts; ++e) {
      double weight = 1;
      if (skew == Skew::zipf) weight = 1.0 / static_cast<double>(e + 1);
      if (skew == Skew::hot && e == 0) weight = 1e9;
      // The k largest of log(u) / weight are a weighted sample without replacement.
      key[static_cast<size_t>(e)] = {std::log(random.uniform(draw++) + 1e-300) / weight, e};
    }
    std::partial_sort(key.begin(), key.begin() + is.k, key.end(), std::greater<>());
    for (int64_t j = 0; j < is.k; ++j) out[t * is.k + j] = key[static_cast<size_t>(j)].second;
  }
  return expert_Tk;
}

template <class Experts>
Tensor run_grouped(const ExpertProblem& p, const Experts& experts) {
  const auto grouped = kernels::group_by_expert(p.expert_Tk.flatten(), p.is.experts);
  const auto gate_R = p.weight_Tk.flatten().index_select(0, grouped.order_R);
  const auto token_R = grouped.order_R.div(p.is.k, "floor");
  return experts(p.x_TD, gate_R, token_R, grouped.offset_E1, p.gate_up_EHD, p.down_EDI);
}

using Run = Tensor (*)(const ExpertProblem&);

Tensor run_ours(const ExpertProblem& p) {
  return run_grouped(p, kernels::swiglu_experts);
}

Tensor run_loop(const ExpertProblem& p) {
  return run_grouped(p, kernels::plain::swiglu_experts);
}

#if __has_include(<ATen/ops/_grouped_mm.h>)
Tensor run_transformers(const ExpertProblem& p) {
  const auto weight_R = p.weight_Tk.reshape(-1);
  const auto [expert_R, perm_R] = at::sort(p.expert_Tk.reshape(-1));
  const auto x_RD = p.x_TD.index({perm_R.div(p.is.k, "floor")});
  const auto count_E = at::histc(expert_R.to(at::kFloat), p.is.experts, 0, p.is.experts - 1);
  const auto offset_E = count_E.cumsum(0, at::kInt);
  const auto h_RH = at::_grouped_mm(x_RD, p.gate_up_EHD.transpose(-2, -1), offset_E);
  const auto halves = h_RH.chunk(2, -1);
  const auto y_RD = at::_grouped_mm(at::silu(halves[0]) * halves[1], p.down_EDI.transpose(-2, -1), offset_E);
  const auto weighted_RD = y_RD * weight_R.index({perm_R}).unsqueeze(-1);
  auto inverse_R = at::empty_like(perm_R);
  inverse_R.index_put_({perm_R}, at::arange(perm_R.size(0)));
  return weighted_RD.index({inverse_R}).view({p.is.tokens, p.is.k, p.is.width}).sum(1);
}
#endif

std::vector<std::pair<const char*, Run>> runs() {
  return {{"collegium", run_ours},
#if __has_include(<ATen/ops/_grouped_mm.h>)
          {"grouped_mm", run_transformers},
#endif
          {"loop", run_loop}};
}

std::vector<Tensor> inputs_of(const ExpertProblem& p) {
  return {p.x_TD, p.weight_Tk, p.gate_up_EHD, p.down_EDI};
}

}  // namespace

std::string ExpertShape::name() const {
  return text("E", experts, " k", k, " I", hidden, " T", tokens);
}

std::span<const ExpertShape> expert_shapes(bool quick) {
  static constexpr std::array small = {ExpertShape{32, 64, 32, 4, 2, true}, ExpertShape{1, 64, 32, 4, 2, false}};
  static constexpr std::array all = {
      ExpertShape{1024, 512, 1024, 8, 2, true}, ExpertShape{1024, 512, 256, 64, 8, true},
      ExpertShape{512, 512, 128, 256, 8, true}, ExpertShape{16, 512, 256, 64, 8, false},
      ExpertShape{1, 512, 256, 64, 8, false},
  };
  if (quick) return small;
  return all;
}

std::string_view skew_name(Skew skew) {
  constexpr std::array<std::string_view, 3> names = {"uniform", "zipf", "hot"};
  return names[static_cast<size_t>(skew)];
}

double ExpertProblem::flops(bool backward) const {
  return static_cast<double>(6 * is.tokens * is.k * is.width * is.hidden) * (backward ? 3 : 1);
}

ExpertProblem make_problem(const ExpertShape& is, Skew skew, at::ScalarType type) {
  const Random random(7);
  const auto normal = [&](const char* name, at::IntArrayRef sizes, int64_t terms) {
    const double std = 1 / std::sqrt(static_cast<double>(terms));
    return random.at(name).normal(sizes, std, type).requires_grad_();
  };
  return {is,
          normal("x", {is.tokens, is.width}, 1),
          random.at("weight").uniform({is.tokens, is.k}, 0.1, 1, type).requires_grad_(),
          draw_experts(is, skew, random.at("experts")),
          normal("gate_up", {is.experts, 2 * is.hidden, is.width}, is.width),
          normal("down", {is.experts, is.width, is.hidden}, is.hidden),
          random.at("grad").normal({is.tokens, is.width}, 1, type)};
}

Tensor run_experts(std::string_view name, const ExpertProblem& problem) {
  for (const auto& [known, run] : runs())
    if (name == known) return run(problem);
  fail(ErrorKind::usage, "bench: no contender '", name, "'");
}

std::vector<std::string> expert_contender_names() {
  std::vector<std::string> out;
  for (const auto& [name, run] : runs()) out.emplace_back(name);
  return out;
}

std::vector<Contender> expert_contenders(const ExpertProblem& problem, bool backward) {
  std::vector<Contender> out;
  for (const auto& [name, function] : runs())
    out.push_back({name, [&problem, backward, run = function] {
                     const at::AutoGradMode mode(backward);
                     const auto y = run(problem);
                     if (backward) torch::autograd::grad({y}, inputs_of(problem), {problem.grad_TD});
                   }});
  return out;
}

double worst_difference(const ExpertProblem& problem) {
  const auto all = runs();
  const at::AutoGradMode mode(true);
  const auto ours = all[0].second(problem), theirs = all[1].second(problem);
  double worst = 0;
  const auto compare = [&](const Tensor& a, const Tensor& b) {
    worst = std::max(worst, ((a - b).abs().max() / b.abs().max()).item<double>());
  };
  compare(ours.detach(), theirs.detach());
  const auto our_grads = torch::autograd::grad({ours}, inputs_of(problem), {problem.grad_TD});
  const auto their_grads = torch::autograd::grad({theirs}, inputs_of(problem), {problem.grad_TD});
  for (size_t i = 0; i < our_grads.size(); ++i) compare(our_grads[i], their_grads[i]);
  return worst;
}

}  // namespace collegium::cli
