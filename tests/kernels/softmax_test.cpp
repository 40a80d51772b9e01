// Softmax, logsumexp and the logistic function: against double, at the ends of the range, in any company, per
// instruction set, and their derivatives.
#include "collegium/kernels/softmax.h"

#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "check.h"
#include "collegium/kernels/isa.h"
#include "collegium/kernels/sigmoid.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

template <class C>
const kernels::ScoreLoops<C>& score_loops_in(const kernels::LoopTables& tables) {
  if constexpr (std::is_same_v<C, float>) return tables.scores_of_float;
  if constexpr (std::is_same_v<C, double>) return tables.scores_of_double;
}

// Calls check(loops, units in the last place) for each supported instruction set.
template <class Check>
void for_each_score_table(const Check& check) {
  for (const auto& isa : kernels::isas()) {
    if (!isa.supported()) continue;
    CAPTURE(isa.name);
    check(score_loops_in<float>(*isa.loops), std::numeric_limits<float>::epsilon());
    check(score_loops_in<double>(*isa.loops), std::numeric_limits<double>::epsilon());
  }
}

template <class C>
constexpr at::ScalarType type_of_scores = std::is_same_v<C, float> ? at::kFloat : at::kDouble;

template <class C>
C* data_of(const Tensor& t) {
  return static_cast<C*>(t.data_ptr());
}

// Largest relative error where the wanted value is a normal number of either type.
double relative_error(const Tensor& got, const Tensor& wanted) {
  const auto is_normal = wanted.abs().gt(1e-37);
  const auto error = ((got.to(at::kDouble) - wanted) / wanted).abs().masked_fill(is_normal.logical_not(), 0);
  return value_of(error.max());
}

}  // namespace

TEST_CASE("the score loops are within a few units of the last place of double") {
  for_each_score_table([]<class C>(const kernels::ScoreLoops<C>& loop, double unit) {
    const auto type = type_of_scores<C>;
    const auto z = at::linspace(-86, 86, 30011, at::kDouble).to(type);
    const auto out = at::empty_like(z);
    loop.logistic(data_of<C>(z), z.numel(), data_of<C>(out));
    const auto exact = at::exp(z.to(at::kDouble).clamp_max(0)) / (1 + at::exp(-z.to(at::kDouble).abs()));
    CHECK(relative_error(out, exact) < 4 * unit);
    for (const int64_t n : {1, 2, 7, 8, 15, 16, 17, 64, 100, 257})
      for (const double spread : {0.1, 3.0, 30.0}) {
        CAPTURE(n);
        const auto row = Random(static_cast<uint64_t>(n)).normal({n}, spread, type);
        const auto got = at::empty_like(row);
        loop.softmax(data_of<C>(row), n, data_of<C>(got));
        // The differences from the row's maximum are rounded, too.
        const double range = value_of(row.max() - row.min());
        CHECK(relative_error(got, row.to(at::kDouble).softmax(0)) < (6 + range / 2) * unit);
        const double wanted = value_of(row.to(at::kDouble).logsumexp({0}));
        CHECK(std::abs(loop.log_sum_exp(data_of<C>(row), n) - wanted) < 4 * unit * std::max(1.0, std::abs(wanted)));
      }
  });
}

TEST_CASE("softmax and logsumexp at the ends of the range are torch's") {
  const double nan = std::nan("");
  const auto rows = at::tensor(std::vector<double>{0,   -inf, 1, -inf, -inf, -inf, 1e4, 0,   -1e4, -200, 0,   -1e4,
                                                   inf, 0,    1, nan,  0,    1,    inf, nan, 0,    -inf, nan, -inf,
                                                   2,   2,    2, -0.0, 0.0,  0.0,  3,   3,   -inf, 88,   -88, 0},
                               at::kDouble)
                        .view({12, 3});
  for (const auto type : {at::kFloat, at::kDouble}) {
    const auto logit = rows.to(type);
    CHECK(at::allclose(kernels::softmax(logit), kernels::plain::softmax(logit), 1e-6, 1e-37, true));
    CHECK(at::allclose(kernels::log_sum_exp(logit), kernels::plain::log_sum_exp(logit), 1e-6, 0, true));
  }
}

TEST_CASE("a row's softmax has the same bits in whatever company and on any number of threads") {
  for (const auto type : {at::kFloat, at::kDouble})
    for (const int64_t E : {3, 8, 61, 256}) {
      const auto logit_NE = Random(4).normal({901, E}, 3, type);
      Tensor all, sums;
      for (const int threads : {1, 2}) {
        const Threads scope(threads);
        const auto now = kernels::softmax(logit_NE), now_sums = kernels::log_sum_exp(logit_NE);
        if (all.defined()) CHECK((same_bits(now, all) && same_bits(now_sums, sums)));
        all = now, sums = now_sums;
        for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 1}, {5, 8}, {100, 900}, {900, 901}}) {
          CHECK(same_bits(kernels::softmax(logit_NE.slice(0, from, to)), all.slice(0, from, to)));
          CHECK(same_bits(kernels::log_sum_exp(logit_NE.slice(0, from, to)), sums.slice(0, from, to)));
        }
      }
    }
  CHECK(kernels::softmax(at::empty({0, 4})).size(0) == 0);
  CHECK(kernels::log_sum_exp(at::empty({0, 4})).size(0) == 0);
}

TEST_CASE("softmax, logsumexp and sigmoid have torch's derivatives, first and second") {
  const auto weight = Random(6).normal({3, 5}, 1, at::kDouble);
  const auto check = [&](auto ours, auto theirs) {
    auto z = Random(5).normal({3, 5}, 1, at::kDouble).requires_grad_();
    const auto derivatives = [&](auto function) {
      const auto first = torch::autograd::grad({function(z).sum()}, {z}, {}, true, true)[0];
      return std::pair{first.detach(), torch::autograd::grad({(first.square() * weight).sum()}, {z})[0]};
    };
    const auto [first, second] = derivatives(ours);
    const auto [wanted_first, wanted_second] = derivatives(theirs);
    CHECK(difference(first, wanted_first) < 1e-12);
    CHECK(difference(second, wanted_second) < 1e-12);
  };
  check([&](const Tensor& z) { return kernels::softmax(z) * weight; },
        [&](const Tensor& z) { return kernels::plain::softmax(z) * weight; });
  check([&](const Tensor& z) { return kernels::log_sum_exp(z).square(); },
        [&](const Tensor& z) { return kernels::plain::log_sum_exp(z).square(); });
  check([&](const Tensor& z) { return kernels::sigmoid(z) * weight; },
        [&](const Tensor& z) { return kernels::plain::sigmoid(z) * weight; });
}
