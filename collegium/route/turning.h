// Where a choice by comparison turns, for Reasons.
//
// N rows, E entries each.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace collegium::route {

using at::Tensor;

/// For each entry of t_NE the k-th largest of the *other* entries of its row: what it must be above to be one of the k
/// largest. -inf where there are fewer others, +inf for k = 0. k_N1: int64 [N, 1], k >= 0. Without gradient.
Tensor kth_of_others(const Tensor& t_NE, const Tensor& k_N1);
Tensor kth_of_others(const Tensor& t_NE, int64_t k);

/// "best expert", "3 best experts".
std::string best_of(int64_t n, std::string_view what);

}  // namespace collegium::route
