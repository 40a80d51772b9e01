// Atomic experts: E networks of one hidden unit each, an expert being a vector that reads and a vector that writes:
//
//   e(x) = act(<up, x>) down,   gated: e(x) = act(<gate, x>) <up, x> down
//
// (PEER, He 2024, section 2; OmniMoE, P027: vector-level experts.)
//
// Two schedules with one result. `token`: each token gathers its experts' vectors, as both papers' codes write it:
// [N, M, D] numbers, read from all over the weights. `expert`: assignments sorted by expert, so that a vector is
// read once for all of its tokens and nothing is gathered (P027, expert-centric scheduling; kernels/pairs.h).
//
// N tokens, D model width, E experts, R assignments sorted by expert, M most experts of a token.
#pragma once
#include <ATen/core/Tensor.h>

#include "collegium/base/config.h"
#include "collegium/base/parameters.h"
#include "collegium/base/random.h"
#include "collegium/route/decision.h"

namespace collegium::layer {

using at::Tensor;

enum class AtomicActivation { silu, gelu };
std::span<const std::string_view> enum_names(AtomicActivation);
enum class Schedule { expert, token };
std::span<const std::string_view> enum_names(Schedule);

struct AtomicConfig {
  AtomicActivation activation = AtomicActivation::silu;
  bool gated = false;
  double up_std = 0, down_std = 0;  ///< of the first weights; 0 = 1 / sqrt(D)
  Schedule schedule = Schedule::expert;
};

class AtomicExperts {
 public:
  AtomicExperts(const AtomicConfig& config, int64_t n_experts, int64_t d_model, const Random& random,
                const at::TensorOptions& options);
  /// y_ND = sum over the assignments of gate * expert(x).
  Tensor forward(const Tensor& x_ND, const route::Decision& decision) const;
  int64_t parameters_per_expert() const;
  void collect(ParameterList& list);

 private:
  Tensor activate(const Tensor& h) const;
  Tensor by_expert(const Tensor& x_ND, const route::Decision& decision) const;
  Tensor by_token(const Tensor& x_ND, const route::Decision& decision) const;

  AtomicConfig config_;
  Tensor gate_ED_, up_ED_, down_ED_;
};

}  // namespace collegium::layer
