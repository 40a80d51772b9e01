// The logistic function against torch's, at the ends of the range, and the same bits in any company.
#include "collegium/kernels/sigmoid.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <doctest/doctest.h>

namespace {

using namespace collegium;

}  // namespace

TEST_CASE("sigmoid is torch's to rounding, and finite everywhere") {
  for (const auto type : {at::kFloat, at::kDouble}) {
    const auto z = at::linspace(-30, 30, 4001, at::TensorOptions().dtype(type));
    const auto error = (kernels::sigmoid(z) - kernels::plain::sigmoid(z)).abs().max().item<double>();
    CHECK(error < (type == at::kFloat ? 2e-7 : 1e-15));
    const auto ends = kernels::sigmoid(at::tensor(std::vector<double>{-1e4, -800, 0, 800, 1e4}).to(type));
    CHECK(at::equal(ends, at::tensor(std::vector<double>{0, 0, .5, 1, 1}).to(type)));
  }
}

TEST_CASE("sigmoid has the same bits in whatever company") {
  const auto z = at::linspace(-8, 8, 1037, at::kFloat);
  const auto all = kernels::sigmoid(z);
  for (const int64_t end : {1, 2, 3, 7, 8, 9, 15, 31, 33, 100, 1036})
    CHECK(at::equal(kernels::sigmoid(z.slice(0, 0, end)), all.slice(0, 0, end)));
  CHECK(at::equal(kernels::sigmoid(z.slice(0, 5)), all.slice(0, 5)));
}

TEST_CASE("sigmoid's gradient") {
  auto z = at::linspace(-4, 4, 9, at::kDouble).requires_grad_(true);
  const auto weight = at::linspace(1, 2, 9, at::kDouble);
  (kernels::sigmoid(z) * weight).sum().backward();
  const double h = 1e-6;
  const at::NoGradGuard no_grad;
  const auto slope = (kernels::sigmoid(z + h) - kernels::sigmoid(z - h)) / (2 * h) * weight;
  CHECK((z.grad() - slope).abs().max().item<double>() < 1e-8);
}
