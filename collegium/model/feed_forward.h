// A model's feed-forward places at work, under a name that torch's observers hear: FeedForwardTimer, torch's profiler.
#pragma once
#include <ATen/record_function.h>

#include "collegium/layer/layer.h"

namespace collegium::model {

inline constexpr const char* feed_forward_scope = "collegium::feed_forward";

/// One forward pass of one place, experts or dense, router included.
inline layer::LayerOutput forward_named(layer::MoeLayer& layer, const at::Tensor& x_ND, const route::Context& context) {
  RECORD_USER_SCOPE(feed_forward_scope);
  return layer.forward(x_ND, context);
}

}  // namespace collegium::model
