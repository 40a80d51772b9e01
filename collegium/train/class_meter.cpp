#include "collegium/train/class_meter.h"

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "collegium/route/class_information.h"
#include "collegium/route/first_expert.h"

namespace collegium::train {

void ClassMeter::add(const model::ModelOutput& output, const Tensor& class_N) {
  if (n_classes_ < 2) return;
  count_CE_.resize(std::max(count_CE_.size(), output.decisions.size()));
  for (size_t l = 0; l < output.decisions.size(); ++l) {
    const auto& d = output.decisions[l];
    const auto E = d.n_experts();
    const auto first_N = route::first_expert(d).cpu(), known_N = class_N.cpu();
    const auto counts = first_N.ge(0).logical_and(known_N.ge(0)).nonzero().flatten();
    const auto cell = known_N.index_select(0, counts) * E + first_N.index_select(0, counts);
    const auto here_CE = at::bincount(cell, {}, n_classes_ * E).view({n_classes_, E}).to(at::kDouble);
    count_CE_[l] = count_CE_[l].defined() ? count_CE_[l] + here_CE : here_CE;
  }
}

void ClassMeter::report(nlohmann::json& row) const {
  double sum = 0;
  int64_t n_layers = 0;
  for (const auto& count_CE : count_CE_) {
    if (!count_CE.defined()) continue;
    if (const auto told = route::class_information(count_CE)) sum += *told, ++n_layers;
  }
  if (n_layers > 0) row["class_information"] = sum / static_cast<double>(n_layers);
}

DocumentClasses document_classes(const data::TokenSet& tokens) {
  const auto number = [&](auto name_of) {
    DocumentClasses out;
    std::map<std::string, int64_t> known;
    for (const auto& d : tokens.documents())
      out.class_of_document.push_back(known.try_emplace(name_of(d), static_cast<int64_t>(known.size())).first->second);
    out.n_classes = static_cast<int64_t>(known.size());
    return out;
  };
  auto languages = number([](const data::DocumentSpan& d) { return d.language; });
  if (languages.n_classes > 1) return languages;
  return number([](const data::DocumentSpan& d) {
    const auto slash = d.id.find('/');
    return slash == std::string::npos ? std::string() : d.id.substr(0, slash);
  });
}

Tensor classes_of(const DocumentClasses& classes, const Tensor& document_N) {
  if (classes.class_of_document.empty()) return at::full_like(document_N, -1);
  const auto class_D = at::tensor(classes.class_of_document, at::kLong);
  const auto known_N = document_N.ge(0);
  return at::where(known_N, class_D.index_select(0, document_N.clamp_min(0)), at::full_like(document_N, -1));
}

}  // namespace collegium::train
