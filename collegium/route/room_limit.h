// The capacity arithmetic that capacity stages share.
#pragma once
#include <array>

#include "collegium/route/stages.h"

namespace collegium::route {

/// Slots per expert: `tokens` when > 0, else ceil(factor * asked / n_experts), at least `minimum`.
int64_t slots_per_expert(double factor, int64_t tokens, int64_t minimum, int64_t n_asked, int64_t n_experts);

/// True for the kept assignments that find room: at most slots_G[g] for each expert in group g, in priority order.
/// group_R: int64 group of each assignment, in [0, G). [R]
Tensor fits_R(const Decision& decision, const Tensor& group_R, const std::vector<int64_t>& slots_G, Priority priority);

}  // namespace collegium::route
