// Single layers that differ from the rest: what a model's `override` table says of them.
//
//   [model.override]
//   0 = "dense"                     # the first layer is as model.dense says
//   1 = { name = "soft" }           # a mechanism of no configuration here: what is not written has its default
//   "2-5/2" = { n_experts = 32 }    # layers 2 and 4: without a name the fields are laid over what the layer would be
#pragma once
#include <cstdint>
#include <span>

#include "collegium/base/config.h"

namespace collegium::model {

/// Refuses a key that names no layers of a model of `n_layers`: "3", "2-5", "2-" (to the last), each with "/s" = every
/// s-th from the first on.
void check_overrides(const Table& overrides, int64_t n_layers, std::string_view path);

/// `base` with what `overrides` says of this layer over it, in the order in which it is written. A name that one of
/// `known` has starts from that one's fields.
Named overridden(const Named& base, std::span<const Named> known, const Table& overrides, int64_t layer,
                 int64_t n_layers, std::string_view path);

}  // namespace collegium::model
