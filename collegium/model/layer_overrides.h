// Single layers that differ from the rest: what a model's `override` table says of them.
//
//   [model.override.0]          # the first layer
//   name = "dense"              # another mechanism replaces the layer's whole configuration
//   [model.override."2-5/2"]    # layers 2 and 4
//   n_experts = 32              # without a name the fields are laid over what the layer would be
#pragma once
#include <cstdint>

#include "collegium/base/config.h"

namespace collegium::model {

/// Refuses a key that names no layers of a model of `n_layers`: "3", "2-5", "2-" (to the last), each with "/s" = every
/// s-th from the first on.
void check_overrides(const Table& overrides, int64_t n_layers, std::string_view path);

/// `base` with what `overrides` says of this layer over it, in the order in which it is written.
Named overridden(const Named& base, const Table& overrides, int64_t layer, int64_t n_layers, std::string_view path);

}  // namespace collegium::model
