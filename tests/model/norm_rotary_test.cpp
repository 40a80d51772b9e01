// RMSNorm and rotary positions: the fast versions against the plain ones and against their definitions.
//
// B sequences, T tokens, H heads, d head width, N tokens, D width.
#include "collegium/kernels/norm.h"
#include "collegium/kernels/rotary.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::test;

double limit(at::ScalarType type) {
  return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 2e-2;
}

// Value and gradients of `function` at `inputs`, along a fixed direction.
std::vector<Tensor> with_gradients(const std::function<Tensor(const std::vector<Tensor>&)>& function,
                                   const std::vector<Tensor>& inputs) {
  std::vector<Tensor> leaves;
  for (const auto& t : inputs) leaves.push_back(t.detach().clone().requires_grad_(true));
  const auto value = function(leaves);
  (value * numbers(Random(9), value.sizes(), -1, 1, value.scalar_type())).sum().backward();
  std::vector<Tensor> all = {value.detach()};
  for (const auto& t : leaves) all.push_back(t.grad());
  return all;
}

}  // namespace

TEST_CASE("RMSNorm: fast equals plain, values and gradients") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t N : {1, 5, 150})
      for (const int64_t D : {2, 7, 64}) {
        CAPTURE(std::string(at::toString(type)));
        CAPTURE(N);
        CAPTURE(D);
        const std::vector<Tensor> at = {numbers(Random(1), {N, D}, -2, 2, type), numbers(Random(2), {D}, 0.5, 2, type)};
        const auto fast = with_gradients([](const auto& t) { return kernels::rms_norm(t[0], t[1], 1e-6); }, at);
        const auto plain = with_gradients([](const auto& t) { return kernels::plain::rms_norm(t[0], t[1], 1e-6); }, at);
        for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < limit(type));
        CHECK((fast[0].scalar_type() == type));
      }
}

TEST_CASE("RMSNorm: by its formula, for strided rows, for rows of zeros") {
  const auto x_ND = numbers(Random(1), {3, 4}, -2, 2, at::kDouble),
             gain_D = numbers(Random(2), {4}, 0.5, 2, at::kDouble);
  const auto x = reals(x_ND), gain = reals(gain_D), y = reals(kernels::rms_norm(x_ND, gain_D, 0.1));
  for (size_t n = 0; n < 3; ++n) {
    double square = 0;
    for (size_t i = 0; i < 4; ++i) square += x[4 * n + i] * x[4 * n + i] / 4;
    for (size_t i = 0; i < 4; ++i)
      CHECK(y[4 * n + i] == doctest::Approx(x[4 * n + i] / std::sqrt(square + 0.1) * gain[i]));
  }
  const auto slanted = x_ND.t().contiguous().t();
  CHECK(same_bits(kernels::rms_norm(slanted, gain_D, 0.1), kernels::rms_norm(x_ND, gain_D, 0.1)));
  CHECK(kernels::rms_norm(at::zeros({2, 4}), at::ones({4}), 1e-6).abs().max().item<double>() == 0);
  CHECK((kernels::rms_norm(at::zeros({0, 4}), at::ones({4}), 1e-6).sizes() == at::IntArrayRef{0, 4}));
}

TEST_CASE("RMSNorm: derivatives, and the same bits for one thread and two") {
  auto x_ND = numbers(Random(1), {4, 5}, -2, 2, at::kDouble).requires_grad_(true);
  auto gain_D = numbers(Random(2), {5}, 0.5, 2, at::kDouble).requires_grad_(true);
  const auto report = check_gradients([&] { return Evaluated{kernels::rms_norm(x_ND, gain_D, 1e-3), {}}; },
                                      {{"x", x_ND}, {"gain", gain_D}});
  CHECK(report.worst < 1e-8);
  const std::vector<Tensor> many = {numbers(Random(1), {1000, 24}), numbers(Random(2), {24})};
  const auto run = [&](int n) {
    const Threads guard(n);
    return with_gradients([](const auto& t) { return kernels::rms_norm(t[0], t[1], 1e-6); }, many);
  };
  const auto one = run(1), two = run(2);
  for (size_t i = 0; i < one.size(); ++i) CHECK(same_bits(one[i], two[i]));
}

TEST_CASE("rotary positions: fast equals plain, values and gradients, for any strides") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const auto& [B, T, H, d] :
         std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{{1, 1, 1, 2}, {2, 5, 3, 4}, {3, 40, 2, 8}}) {
      CAPTURE(std::string(at::toString(type)));
      CAPTURE(T);
      const auto rotation = kernels::rotation(3, T, d, 10000, type);
      const auto fused = numbers(Random(1), {B, T, H + 2, d}, -1, 1, type);
      const auto heads = [&, n = H](const Tensor& t) { return t.slice(2, 1, 1 + n); };
      const auto fast = with_gradients([&](const auto& t) { return kernels::rotate(heads(t[0]), rotation); }, {fused});
      const auto plain =
          with_gradients([&](const auto& t) { return kernels::plain::rotate(heads(t[0]), rotation); }, {fused});
      for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], plain[i]) < limit(type));
      const auto slanted = fused.transpose(0, 3).contiguous().transpose(0, 3);
      CHECK(difference(kernels::rotate(slanted, rotation), kernels::plain::rotate(fused, rotation)) < limit(type));
    }
}

TEST_CASE("rotary positions: by their formula; only the distance of two positions matters") {
  const int64_t T = 6, d = 4;
  const double theta = 100;
  const auto rotation = kernels::rotation(0, T, d, theta, at::kDouble);
  const auto x = numbers(Random(1), {1, T, 1, d}, -1, 1, at::kDouble);
  const auto in = reals(x), out = reals(kernels::rotate(x, rotation));
  for (size_t t = 0; t < 6; ++t)
    for (size_t i = 0; i < 2; ++i) {
      const double angle = static_cast<double>(t) * std::pow(theta, -2.0 * static_cast<double>(i) / 4);
      const double a = in[4 * t + i], b = in[4 * t + i + 2];
      CHECK(out[4 * t + i] == doctest::Approx(a * std::cos(angle) - b * std::sin(angle)).epsilon(1e-12));
      CHECK(out[4 * t + i + 2] == doctest::Approx(b * std::cos(angle) + a * std::sin(angle)).epsilon(1e-12));
    }
  const auto q = numbers(Random(2), {1, 1, 1, d}, -1, 1, at::kDouble),
             k = numbers(Random(3), {1, 1, 1, d}, -1, 1, at::kDouble);
  const auto score = [&](int64_t at_q, int64_t at_k) {
    const auto turned = [&](const Tensor& t, int64_t p) {
      return kernels::rotate(t, kernels::rotation(p, 1, d, theta, at::kDouble));
    };
    return (turned(q, at_q) * turned(k, at_k)).sum().item<double>();
  };
  CHECK(score(5, 2) == doctest::Approx(score(103, 100)).epsilon(1e-10));
  CHECK(score(5, 2) != doctest::Approx(score(5, 3)).epsilon(1e-6));
  // A later start continues the earlier positions.
  const auto late = kernels::rotation(2, 3, d, theta, at::kDouble);
  CHECK(same_bits(late.cos_Td2, rotation.cos_Td2.slice(0, 2, 5)));
  CHECK(same_bits(late.sin_Td2, rotation.sin_Td2.slice(0, 2, 5)));
}

TEST_CASE("rotary positions: a row for each token of all sequences") {
  const int64_t B = 3, T = 5, H = 2, d = 4;
  const auto shared = kernels::rotation(2, T, d, 100, at::kDouble);
  const auto own = shared.of(at::arange(B * T));
  CHECK((own.cos_Td2.sizes() == at::IntArrayRef{B * T, d / 2}));
  const auto x = numbers(Random(1), {B, T, H, d}, -1, 1, at::kDouble);
  CHECK(same_bits(kernels::rotate(x, own), kernels::rotate(x, shared)));
  CHECK(difference(kernels::plain::rotate(x, own), kernels::plain::rotate(x, shared)) < 1e-15);
  // Some tokens only, in any order: as they were among all.
  const auto token_R = at::tensor(std::vector<int64_t>{13, 0, 6, 7});
  const auto some = x.reshape({1, B * T, H, d}).index_select(1, token_R);
  const auto wanted = kernels::rotate(x, shared).reshape({1, B * T, H, d}).index_select(1, token_R);
  for (const auto& rotation : {shared.of(token_R), own.of(token_R)}) {
    CHECK(same_bits(kernels::rotate(some, rotation), wanted));
    CHECK(difference(kernels::plain::rotate(some, rotation), wanted) < 1e-15);
  }
}

TEST_CASE("rotary positions: derivatives") {
  auto x = numbers(Random(1), {2, 3, 2, 4}, -1, 1, at::kDouble).requires_grad_(true);
  const auto rotation = kernels::rotation(1, 3, 4, 10000, at::kDouble);
  CHECK(check_gradients([&] { return Evaluated{kernels::rotate(x, rotation), {}}; }, {{"x", x}}).worst < 1e-8);
}
