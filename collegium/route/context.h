// What a routing stage may know besides the hidden states. A stage that needs one of the optional parts says so
// (`Needs`), so a layer that cannot give it is refused when the model is built, not in the middle of a run.
//
// N tokens (all sequences of the batch, flattened).
#pragma once
#include <ATen/core/Tensor.h>

#include "collegium/base/random.h"

namespace collegium::route {

using at::Tensor;

/// Why the layer runs. Balancers count only in `train`: a recomputed, evaluated or replayed pass leaves no mark.
enum class Phase { train, evaluate, recompute, replay };

struct Context {
  Phase phase = Phase::evaluate;
  Tensor token_id_N;    ///< int64 vocabulary ids; undefined where the host has none
  Tensor mask_N;        ///< bool, true = a real token; undefined = all real. Masked tokens are never routed
  Tensor sequence_N;    ///< int64 in [0, n_sequences), ascending; undefined = one sequence
  int64_t n_sequences = 1;
  bool record = false;  ///< the decision will be kept: layers without an assignment describe themselves as one
  Random random{0};     ///< noise of this layer in this step: the same again under recompute
};

/// Number of real tokens.
int64_t n_real(const Context& context, int64_t n_tokens);

}  // namespace collegium::route
