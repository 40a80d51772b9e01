// A list of assignments brought into the order in which experts work on them.
//
// Legend: N tokens, E experts, R assignments.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace collegium::kernels {

using at::Tensor;

/// Columns of a list of assignments, each of length R: token, expert and rank int64, score and margin floating point.
struct Assigned {
  Tensor token_R, expert_R, rank_R, score_R, margin_R;
};

struct SortedAssignments {
  Assigned sorted;
  Tensor slot_R;     ///< int64, place among the rows of the same expert, from 0
  Tensor offset_E1;  ///< int64 [E + 1] on the CPU: rows of expert e
};

/// Sorted by expert, inside an expert by token, and as they came where both are equal: two passes of counting, over
/// threads, with one result for any number of them. Throws a usage Error when an id is out of range.
SortedAssignments sort_assignments(const Assigned& list, int64_t n_tokens, int64_t n_experts);

namespace plain {
/// The same by two stable sorts, on any device.
SortedAssignments sort_assignments(const Assigned& list, int64_t n_tokens, int64_t n_experts);
}  // namespace plain

}  // namespace collegium::kernels
