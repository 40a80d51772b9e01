#include "collegium/train/rare_meter.h"

#include <ATen/ATen.h>

#include <cmath>

#include "collegium/route/token_frequency.h"

namespace collegium::train {
namespace {

constexpr double kFrequentShare = 0.8;

}  // namespace

RareTokens::RareTokens(const data::TokenSet& train)
    : is_rare_V_(route::frequent_ids(at::tensor(train.counts(), at::kLong), kFrequentShare).logical_not()),
      n_bytes_V_(at::empty({train.vocab_size()}, at::kLong)) {
  auto* n_bytes = n_bytes_V_.mutable_data_ptr<int64_t>();
  for (int64_t id = 0; id < train.vocab_size(); ++id) n_bytes[id] = train.bytes_of(id);
}

void RareMeter::add(const RareTokens& rare, const Tensor& loss_N, const Tensor& target_N, const Tensor& counts_N) {
  const auto id_N = target_N.cpu();
  const auto chosen_N = rare.is_rare_V().index_select(0, id_N).logical_and(counts_N.cpu());
  nats_ += loss_N.detach().to(at::kCPU, at::kDouble).masked_select(chosen_N).sum().item<double>();
  bytes_ += rare.n_bytes_V().index_select(0, id_N).masked_select(chosen_N).sum().item<int64_t>();
}

void RareMeter::report(nlohmann::json& row) const {
  if (bytes_ > 0) row["rare_bpb"] = nats_ / M_LN2 / static_cast<double>(bytes_);
}

}  // namespace collegium::train
