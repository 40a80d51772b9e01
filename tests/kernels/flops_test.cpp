// The counter of work: torch's products and this room's own, by hand.
#include <ATen/ATen.h>

#include "collegium/kernels/experts.h"
#include "collegium/kernels/flops.h"
#include "collegium/kernels/router_linear.h"
#include "tests/kernels/check.h"

using namespace collegium;
using kernels::FlopCounter;

namespace {
double counted(const std::function<void()>& work) {
  const FlopCounter counter;
  work();
  return counter.flops();
}
}  // namespace

TEST_CASE("products of torch are counted as two operations a multiply-add") {
  const auto a = at::rand({3, 5}), b = at::rand({5, 7}), batch = at::rand({2, 3, 5});
  CHECK(counted([&] { at::mm(a, b); }) == 2 * 3 * 5 * 7);
  CHECK(counted([&] { at::addmm(at::rand({7}), a, b); }) == 2 * 3 * 5 * 7);
  CHECK(counted([&] { at::linear(a, b.t()); }) == 2 * 3 * 5 * 7);
  CHECK(counted([&] { at::linear(batch, b.t(), at::rand({7})); }) == 2 * 6 * 5 * 7);
  CHECK(counted([&] { at::matmul(batch, b); }) == 2 * 6 * 5 * 7);
  CHECK(counted([&] { at::bmm(batch, b.expand({2, 5, 7})); }) == 2 * 6 * 5 * 7);
  CHECK(counted([&] { at::matmul(a, at::rand({5})); }) == 2 * 3 * 5);
  CHECK(counted([&] { (a + a).exp().sum(); }) == 0);
}

TEST_CASE("fused attention counts half of the square when it is causal") {
  const auto q_BHTd = at::rand({2, 3, 8, 4});
  const auto square = 2.0 * 2 * 3 * 8 * 8 * (4 + 4);
  CHECK(counted([&] { at::scaled_dot_product_attention(q_BHTd, q_BHTd, q_BHTd); }) == square);
  CHECK(counted([&] { at::scaled_dot_product_attention(q_BHTd, q_BHTd, q_BHTd, {}, 0.0, true); }) == square / 2);
}

TEST_CASE("own products count as torch's do, forward and backward") {
  const auto random = [](at::IntArrayRef sizes) { return at::rand(sizes).requires_grad_(true); };
  const int64_t R = 6, N = 4, D = 8, I = 5, E = 3;
  const auto offset_E1 = at::tensor({0, 2, 2, 6}, at::kLong), token_R = at::tensor({0, 1, 0, 1, 2, 3}, at::kLong);
  const auto x_ND = random({N, D}), gate_R = at::rand({R}), first_EHD = random({E, 2 * I, D}),
             second_EDI = random({E, D, I});
  at::Tensor y_ND;
  const auto forward =
      counted([&] { y_ND = kernels::swiglu_experts(x_ND, gate_R, token_R, offset_E1, first_EHD, second_EDI); });
  CHECK(forward == 2.0 * static_cast<double>(R * D * 3 * I));
  CHECK(counted([&] { y_ND.sum().backward(); }) == 2 * forward);
  CHECK(counted([&] { kernels::linear(x_ND, first_EHD[0]); }) == 2.0 * static_cast<double>(N * D * 2 * I));
  CHECK(counted([&] { kernels::router_linear(x_ND, at::rand({E, D})); }) == 2.0 * static_cast<double>(N * D * E));
}

TEST_CASE("a counter inside another adds to it, and none counts nothing") {
  const auto a = at::rand({2, 2});
  at::mm(a, a);
  const FlopCounter outer;
  at::mm(a, a);
  CHECK(counted([&] { at::mm(a, a); }) == 16);
  at::mm(a, a);
  CHECK(outer.flops() == 48);
}
