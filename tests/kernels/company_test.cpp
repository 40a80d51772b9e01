// A token's results and gradients are the same bits whatever the tokens beside it. Sizes cross the edges of the loops'
// tiles: widths that are no multiple of a panel, and every number of rows from 1 to 70 for one expert.
//
// Legend: as in experts.h; M tokens of a batch, each with K choices, drawn from a pool of N tokens.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "check.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/group.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

constexpr int64_t kTokens = 131, kWidth = 80, kHidden = 48, kExperts = 4;

struct Pool {
  Tensor x_ND, gate_NK, expert_NK, grad_ND, first_EHD, second_EDI;
};

// Every token of the first 70 chooses expert 2; the others only now and then.
Pool make_pool(int64_t parts, at::ScalarType type) {
  const Random random(41);
  const auto normal = [&](const char* name, at::IntArrayRef sizes, double std) {
    return random.at(name).normal(sizes, std, type);
  };
  auto expert_NK = at::empty({kTokens, 2}, at::kLong);
  for (int64_t n = 0; n < kTokens; ++n) {
    expert_NK[n][0] = n < 70 || n % 5 == 0 ? 2 : 3;
    expert_NK[n][1] = n % 3 == 0 ? 2 : n % 2;  // expert 2 twice: its rows of one token stand side by side
  }
  return {normal("x", {kTokens, kWidth}, 1),
          normal("gate", {kTokens, 2}, 1),
          expert_NK,
          normal("grad", {kTokens, kWidth}, 1),
          normal("first", {kExperts, parts * kHidden, kWidth}, 0.1),
          normal("second", {kExperts, kWidth, kHidden}, 0.1)};
}

struct Results {
  Tensor out_MD, x_MD, gate_MK;  // the result, and the gradients of x and gate
};

template <class Run>
Results run_batch(const Run& run, const Pool& pool, const Tensor& token_M) {
  const auto K = pool.expert_NK.size(1);
  const auto x_MD = pool.x_ND.index_select(0, token_M).requires_grad_();
  const auto gate_MK = pool.gate_NK.index_select(0, token_M).requires_grad_();
  const auto grouped = kernels::group_by_expert(pool.expert_NK.index_select(0, token_M).flatten(), kExperts);
  const auto gate_R = gate_MK.flatten().index_select(0, grouped.order_R);
  const auto out_MD =
      run(x_MD, gate_R, grouped.order_R.floor_divide(K), grouped.offset_E1, pool.first_EHD, pool.second_EDI);
  const auto grads = torch::autograd::grad({out_MD}, {x_MD, gate_MK}, {pool.grad_ND.index_select(0, token_M)});
  const at::NoGradGuard no_grad;
  CHECK(same_bits(out_MD.detach(), run(x_MD, gate_R, grouped.order_R.floor_divide(K), grouped.offset_E1, pool.first_EHD,
                                       pool.second_EDI)));
  return {out_MD.detach(), grads[0], grads[1]};
}

void check_rows(const Results& batch, const Results& whole, const Tensor& token_M) {
  CHECK(same_bits(batch.out_MD, whole.out_MD.index_select(0, token_M)));
  CHECK(same_bits(batch.x_MD, whole.x_MD.index_select(0, token_M)));
  CHECK(same_bits(batch.gate_MK, whole.gate_MK.index_select(0, token_M)));
}

// Every prefix of 1 to 70 tokens, single tokens, a permutation, and the middle of the pool.
std::vector<Tensor> batches() {
  std::vector<Tensor> all;
  for (int64_t m = 1; m <= 70; ++m) all.push_back(at::arange(m));
  for (const int64_t n : {1, 69, 70, 130}) all.push_back(at::tensor({n}));
  // 37 has no divisor in common with 131: each token once.
  all.push_back(at::arange(kTokens).mul(37).remainder(kTokens));
  all.push_back(at::arange(40, 100));
  return all;
}

template <class Run>
void check_company(const Run& run, int64_t parts, at::ScalarType type) {
  const auto pool = make_pool(parts, type);
  const auto everyone = at::arange(kTokens);
  Results whole;
  {
    const Threads scope(1);
    whole = run_batch(run, pool, everyone);
  }
  for (const int threads : {1, 2}) {
    CAPTURE(threads);
    const Threads scope(threads);
    check_rows(run_batch(run, pool, everyone), whole, everyone);
    for (const auto& token_M : batches()) {
      CAPTURE(token_M.numel());
      check_rows(run_batch(run, pool, token_M), whole, token_M);
    }
  }
}

// The same layer out of the parts that experts.h has beside the fused functions.
Tensor composed_of_parts(const Tensor& x_ND, const Tensor& gate_R, const Tensor& token_R, const Tensor& offset_E1,
                         const Tensor& first_EHD, const Tensor& second_EDI) {
  const auto h_RH = kernels::grouped_linear(kernels::gather_rows(x_ND, token_R), first_EHD, offset_E1);
  const auto y_RD = kernels::grouped_linear(kernels::swiglu(h_RH), second_EDI, offset_E1);
  return kernels::combine(y_RD, gate_R, token_R, x_ND.size(0));
}

}  // namespace

TEST_CASE("a token's bits do not depend on its company in fused experts") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    CAPTURE(c10::toString(type));
    check_company(kernels::swiglu_experts, 2, type);
    check_company(kernels::gelu_experts, 1, type);
  }
}

TEST_CASE("a token's bits do not depend on its company in grouped products and what stands around them") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    CAPTURE(c10::toString(type));
    check_company(composed_of_parts, 2, type);
  }
}
