// Tensors as numbers of the standard library, for what is counted one by one.
#pragma once
#include <ATen/ATen.h>

#include <vector>

namespace collegium {

inline std::vector<double> reals(const at::Tensor& t) {
  const auto c = t.detach().to(at::kCPU, at::kDouble).contiguous();
  return {c.const_data_ptr<double>(), c.const_data_ptr<double>() + c.numel()};
}

inline std::vector<int64_t> ints(const at::Tensor& t) {
  const auto c = t.to(at::kCPU, at::kLong).contiguous();
  return {c.const_data_ptr<int64_t>(), c.const_data_ptr<int64_t>() + c.numel()};
}

}  // namespace collegium
