// Dense matrix products: the ceiling that expert layers are held against.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cli/bench/turns.h"

namespace collegium::cli {

struct DenseSpeed {
  std::string who;         ///< an instruction set of ours, or "torch"
  bool is_chosen = false;  ///< what expert layers run here: the chosen instruction set, and torch
  double flops_per_second = 0;
};

/// Widths of the products.
std::span<const int64_t> dense_sizes(bool quick);

/// The fastest of `turns` products [n, n] x [n, n] of each size, for every supported instruction set of ours (through
/// its own loops) and for at::mm, in turns.
std::vector<DenseSpeed> dense_speeds(at::ScalarType type, std::span<const int64_t> sizes, int64_t turns,
                                     BenchClock clock, const std::function<bool()>& after_turn);

}  // namespace collegium::cli
