// Shared by the tests of layers: building one, its weights, and a SwiGLU network written out.
//
// N tokens, D model width, I expert hidden width, H = 2 I.
#pragma once
#include <functional>

#include "collegium/layer/experts.h"
#include "collegium/layer/layer.h"
#include "tests/support/routing.h"

namespace collegium::test {

inline std::unique_ptr<layer::MoeLayer> make_layer(const Named& named, int64_t d_model, uint64_t seed = 1) {
  return find(layer::layers(), named, "layer")
      .make(named, {.d_model = d_model, .random = Random(seed), .options = at::kDouble});
}

/// The parameter itself: writing it changes the layer.
inline Tensor parameter(layer::MoeLayer& made, std::string_view name) {
  for (const auto& p : parameters_of(made))
    if (p.name == name) return *p.tensor;
  FAIL("no parameter " << name);
  return {};
}

inline Tensor weight(layer::MoeLayer& made, std::string_view name) {
  return parameter(made, name).detach();
}

inline Tensor swiglu(const Tensor& x_ND, const Tensor& gate_up_HD, const Tensor& down_DI) {
  const auto halves = at::linear(x_ND, gate_up_HD).chunk(2, -1);
  return at::linear(at::silu(halves[0]) * halves[1], down_DI);
}

inline Tensor inputs(int64_t N, int64_t D, uint64_t seed = 3) {
  return numbers(Random(seed), {N, D}, -1, 1, at::kDouble);
}

/// What becomes of a parameter that no gradient reaches: it counts as a gradient of zeros, or fails the test.
enum class Unused { zero, refused };

/// Output, and the gradients by x and every trained parameter of its sum along a fixed direction. x_ND: a leaf.
inline std::vector<Tensor> values_and_gradients(layer::MoeLayer& made, const Tensor& x_ND,
                                                const std::function<Tensor()>& forward, Unused unused = Unused::zero) {
  std::vector<Tensor> leaves = {x_ND};
  for (const auto& p : parameters_of(made))
    if (p.trained()) leaves.push_back(*p.tensor);
  for (auto& t : leaves) t.mutable_grad() = Tensor();
  const auto y_ND = forward();
  (y_ND * inputs(x_ND.size(0), x_ND.size(1), 8)).sum().backward();
  std::vector<Tensor> all = {y_ND.detach()};
  for (auto& t : leaves) {
    if (unused == Unused::refused) REQUIRE(t.grad().defined());
    all.push_back(t.grad().defined() ? t.grad().clone() : at::zeros_like(t));
  }
  return all;
}

}  // namespace collegium::test
