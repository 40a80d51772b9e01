// The held-out loss on rare tokens: what a frequent token gains says little about them.
//
// N targets, V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>

#include "collegium/data/packed.h"

namespace collegium::train {

using at::Tensor;

/// Rare are the ids that together make up the last fifth of the training tokens (P090 draws its line there, too).
class RareTokens {
 public:
  explicit RareTokens(const data::TokenSet& train);
  const Tensor& is_rare_V() const { return is_rare_V_; }  ///< bool, CPU
  const Tensor& n_bytes_V() const { return n_bytes_V_; }  ///< int64, UTF-8 bytes of each id, CPU

 private:
  Tensor is_rare_V_, n_bytes_V_;
};

/// Sums over the passes of one evaluation.
class RareMeter {
 public:
  /// loss_N in nats; counts_N: bool, which targets count.
  void add(const RareTokens& rare, const Tensor& loss_N, const Tensor& target_N, const Tensor& counts_N);
  /// row["rare_bpb"]: bits per byte of the rare targets' text. Absent when there were none.
  void report(nlohmann::json& row) const;

 private:
  double nats_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace collegium::train
