// Shared by the tests of the kernels.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/base/random.h"

namespace kernels_test {

using at::Tensor;
using collegium::Random;

/// A one-element tensor's value. Not a template, so that templates may call it without further words.
inline double value_of(const Tensor& scalar) {
  return scalar.to(at::kDouble).item<double>();
}

/// Equal to the bit, NaNs included.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() && at::allclose(a, b, 0, 0, true);
}

/// Largest |a - b|, relative to the largest |b| (or to 1 when b is smaller than that is meaningful).
inline double difference(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return a.sizes() == b.sizes() ? 0 : 1;
  const auto x = a.to(at::kDouble), y = b.to(at::kDouble);
  const auto scale = std::max(y.abs().max().item<double>(), 1e-3);
  return (x - y).abs().max().item<double>() / scale;
}

inline double tolerance(at::ScalarType type) {
  if (type == at::kDouble) return 1e-12;
  return type == at::kFloat ? 5e-6 : 2e-2;
}

/// What the call's usage Error says, or "" when it throws none.
template <class Call>
std::string complaint(const Call& call) {
  try {
    call();
  } catch (const collegium::Error& error) {
    return error.what();
  }
  return "";
}

/// Restores the number of threads at the end of a test.
class Threads {
 public:
  explicit Threads(int n) : before_(at::get_num_threads()) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// int64 numbers in [0, n).
inline Tensor random_ids(const Random& random, int64_t count, int64_t n) {
  auto ids = at::empty({count}, at::kLong);
  for (int64_t i = 0; i < count; ++i)
    ids.mutable_data_ptr<int64_t>()[i] =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(i), static_cast<uint64_t>(n)));
  return ids;
}

}  // namespace kernels_test
