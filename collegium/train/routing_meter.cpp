#include "collegium/train/routing_meter.h"

#include <ATen/ATen.h>

#include "collegium/route/first_expert.h"

namespace collegium::train {

void RoutingMeter::add(const model::ModelOutput& output, const Tensor& mask_N) {
  layers_.resize(std::max(layers_.size(), output.decisions.size()));
  statistics_.resize(std::max(statistics_.size(), output.statistics.size()));
  for (size_t l = 0; l < output.statistics.size(); ++l)
    for (const auto& s : output.statistics[l])
      statistics_[l][s.name].first += s.sum, statistics_[l][s.name].second += s.weight;
  const auto doubles = at::TensorOptions().dtype(at::kDouble);
  for (size_t l = 0; l < output.decisions.size(); ++l) {
    auto& sum = layers_[l];
    const auto& d = output.decisions[l];
    const auto& record = output.records.at(l);
    const auto E = d.n_experts();
    const auto real = (mask_N.defined() ? mask_N : at::ones({d.n_tokens()}, d.token_R().options().dtype(at::kBool)))
                          .nonzero()
                          .flatten();
    const auto first_N = route::first_expert(d);
    const auto first = first_N.to(at::kCPU, at::kInt).contiguous();
    sum.first_N.insert(sum.first_N.end(), first.const_data_ptr<int>(), first.const_data_ptr<int>() + first.numel());
    const auto kept_E = d.kept_E();
    sum.kept_E = sum.kept_E.defined() ? sum.kept_E + kept_E : kept_E;

    if (record.score_NE.defined()) {
      const auto score_NE = record.score_NE.index_select(0, real).to(at::kDouble);
      const auto p_NE = score_NE / score_NE.sum(1, true).clamp_min(1e-300);
      sum.entropy -= at::special_xlogy(p_NE, p_NE).sum().item<double>(), sum.n_scored += real.size(0);
    }
    const auto counts = d.rank_R().eq(0).logical_and(d.margin_R().isfinite()).nonzero().flatten();
    if (counts.size(0) > 0)
      sum.margin += d.margin_R().index_select(0, counts).sum().item<double>(), sum.n_margins += counts.size(0);

    const auto routed = first_N.index_select(0, real).ge(0).nonzero().flatten();
    const auto rows = real.index_select(0, routed);
    const auto x_ND = record.input_ND.index_select(0, rows).to(at::kDouble);
    const auto expert_N = first_N.index_select(0, rows);
    if (!sum.count_E.defined()) {
      sum.count_E = at::zeros({E}, doubles.device(x_ND.device()));
      sum.sum_ED = at::zeros({E, x_ND.size(1)}, doubles.device(x_ND.device()));
    }
    sum.count_E.index_add_(0, expert_N, at::ones(expert_N.sizes(), sum.count_E.options()));
    sum.sum_ED.index_add_(0, expert_N, x_ND);
    sum.squares += x_ND.square().sum().item<double>();
  }
}

void RoutingMeter::report(nlohmann::json& row, const Tensor& before_LN) const {
  for (const auto& layer : statistics_)
    for (const auto& [name, parts] : layer)
      if (parts.second > 0) row["statistics"][name].push_back(parts.first / parts.second);
  const auto now_LN = first_experts();
  for (size_t l = 0; l < layers_.size(); ++l) {
    const auto& sum = layers_[l];
    auto& out = row["layers"][l];
    if (sum.n_scored > 0) out["score_entropy"] = sum.entropy / static_cast<double>(sum.n_scored);
    if (sum.n_margins > 0) out["margin"] = sum.margin / static_cast<double>(sum.n_margins);
    const auto even = sum.kept_E.sum().item<double>() / static_cast<double>(sum.kept_E.size(0));
    out["utilisation"] = sum.kept_E.to(at::kDouble).gt(even / 4).to(at::kDouble).mean().item<double>();
    if (const auto n = sum.count_E.sum().item<double>(); n > 0) {
      const auto grand = sum.sum_ED.sum(0).square().sum().item<double>() / n;
      const auto classes = (sum.sum_ED.square().sum(1) / sum.count_E.clamp_min(1)).sum().item<double>();
      const auto total = sum.squares - grand;
      out["collapse"] = total > 0 ? (classes - grand) / total : 0.0;
    }
    if (before_LN.defined() && before_LN.sizes() == now_LN.sizes())
      out["fluctuation"] =
          before_LN[static_cast<int64_t>(l)].ne(now_LN[static_cast<int64_t>(l)]).to(at::kDouble).mean().item<double>();
  }
}

Tensor RoutingMeter::first_experts() const {
  std::vector<Tensor> all;
  for (const auto& layer : layers_) all.push_back(at::tensor(layer.first_N, at::kInt));
  return all.empty() ? Tensor() : at::stack(all);
}

}  // namespace collegium::train
