// Assignments put in the order in which experts work on them.
//
// Legend: R assignments, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

struct Grouped {
  Tensor order_R;    ///< int64 permutation: expert_R[order_R] ascends; inside an expert the old order is kept
  Tensor offset_E1;  ///< int64 [E + 1] on the CPU: expert e owns rows offset[e] to offset[e + 1] of the new order
};

/// Sorts assignments by expert, stably, in time linear in R on the CPU.
/// expert_R: int64, each in [0, n_experts). Throws a usage Error for another type, shape or an id out of range.
Grouped group_by_expert(const Tensor& expert_R, int64_t n_experts);

namespace plain {
/// The same by a stable sort, on any device.
Grouped group_by_expert(const Tensor& expert_R, int64_t n_experts);
}  // namespace plain

}  // namespace collegium::kernels
