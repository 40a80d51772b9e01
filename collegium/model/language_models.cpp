#include <ATen/ATen.h>

#include "collegium/model/language_model.h"

namespace collegium::model {

extern const Entry<LanguageModel> language_model_decoder;

Entries<LanguageModel> language_models() {
  static constexpr const Entry<LanguageModel>* kAll[] = {
      &language_model_decoder,
  };
  return kAll;
}

Tensor token_losses(const LanguageModel& model, const Tensor& hidden_ND, const Tensor& target_N) {
  return token_losses(model.logits(hidden_ND), target_N);
}

Tensor token_losses(const Tensor& logit_NV, const Tensor& target_N) {
  const auto exact = logit_NV.scalar_type() == at::kDouble ? logit_NV : logit_NV.to(at::kFloat);
  return at::cross_entropy_loss(exact, target_N, {}, at::Reduction::None);
}

}  // namespace collegium::model
