// The trace of a layer without an assignment: every token met every expert, with a share.
//
// N tokens, E experts.
#pragma once
#include "collegium/route/context.h"
#include "collegium/route/decision.h"

namespace collegium::layer {

using at::Tensor;

/// Every real token is kept by every expert; gates are the shares, ranks follow them, margins are endless.
/// share_NE: >= 0, without gradient.
route::Decision soft_decision(const Tensor& share_NE, const route::Context& context);

}  // namespace collegium::layer
