#include "collegium/kernels/experts_torch.h"

#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "check.h"
#include "collegium/kernels/experts.h"
#include "collegium/kernels/token_sums.h"

namespace kernels = collegium::kernels;
using kernels::ExpertKind;
using namespace kernels_test;

namespace {

// N tokens, A rows of which n_idle do no work, an expert without rows among five.
struct TorchCase {
  kernels::ExpertsCall call;
  Tensor grad_ND;
  int64_t n_working;
  std::vector<Tensor> inputs() const { return {call.x_ND, call.gate_R, call.first_EHD, call.second_EDI}; }
};

TorchCase torch_case(ExpertKind kind, at::ScalarType type, int64_t n_rows, int64_t n_idle) {
  const Random random(3);
  const int64_t n_tokens = 20, width = 32, hidden = 16, n_experts = 5, parts = kind == ExpertKind::swiglu ? 2 : 1;
  const auto normal = [&](const char* name, at::IntArrayRef sizes, double std) {
    return random.at(name).normal(sizes, std, type);
  };
  const auto n_working = n_rows - n_idle;
  auto token = random_ids(random.at("token"), n_rows, n_tokens);
  token.slice(0, n_working).fill_(n_tokens);
  const auto offset = at::tensor({int64_t{0}, n_working / 4, n_working / 4, n_working / 2, n_working / 2, n_working});
  return {{kind, normal("x", {n_tokens, width}, 1), normal("gate", {n_rows}, 1), token, offset,
           normal("first", {n_experts, parts * hidden, width}, 0.2), normal("second", {n_experts, width, hidden}, 0.2)},
          normal("grad", {n_tokens, width}, 1),
          n_working};
}

// The result and the gradients of x, gate and weights by the plain version and torch's autograd.
std::vector<Tensor> plainly(const TorchCase& is) {
  auto inputs = is.inputs();
  for (auto& t : inputs) t = t.detach().clone().requires_grad_();
  const auto run = is.call.kind == ExpertKind::swiglu ? kernels::plain::swiglu_experts : kernels::plain::gelu_experts;
  const auto out = run(inputs[0], inputs[1].slice(0, 0, is.n_working), is.call.token_R.slice(0, 0, is.n_working),
                       is.call.offset_E1, inputs[2], inputs[3]);
  const auto grads = torch::autograd::grad({out}, inputs, {is.grad_ND});
  return {out.detach(), grads[0], grads[1], grads[2], grads[3]};
}

void check_passes(const TorchCase& is, const kernels::GroupedProducts& products) {
  const auto type = is.call.x_ND.scalar_type();
  const auto wanted = plainly(is);
  const auto result = kernels::torch_experts_forward(products, is.call, /*keep=*/true);
  CHECK(!kernels::torch_experts_forward(products, is.call, /*keep=*/false).pre_RH.defined());
  const auto all =
      kernels::torch_experts_backward(products, is.call, result.pre_RH, is.grad_ND, {true, true, true, true});
  const std::vector<Tensor> got = {result.out_ND, all.x_ND, all.gate_R, all.first_EHD, all.second_EDI};
  const double bound = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : type == at::kHalf ? 4e-3 : 3e-2;
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].sizes() == wanted[i].sizes());
    CHECK((i == 2 || got[i].scalar_type() == type));  // the gate's gradient is as wide as sums are
    CHECK(difference(got[i], wanted[i]) < bound);
  }
  for (size_t only = 0; only < 4; ++only) {
    std::array<bool, 4> one{};
    one[only] = true;
    const auto g = kernels::torch_experts_backward(products, is.call, result.pre_RH, is.grad_ND, one);
    const std::vector<Tensor> made = {g.x_ND, g.gate_R, g.first_EHD, g.second_EDI};
    for (size_t i = 0; i < 4; ++i) CHECK(made[i].defined() == (i == only));
    CHECK(same_bits(made[only], got[only + 1]));
  }
}

}  // namespace

TEST_CASE("experts by a product an expert equal the plain version's autograd, in every type") {
  for (const auto kind : {ExpertKind::swiglu, ExpertKind::gelu})
    for (const int64_t n_idle : {0, 7})
      for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
        CAPTURE(n_idle);
        CAPTURE(c10::toString(type));
        const auto is = torch_case(kind, type, 40, n_idle);
        check_passes(is, *kernels::looped_products(is.call.offset_E1));
      }
}

#if __has_include(<ATen/ops/_grouped_mm.h>)
TEST_CASE("experts by torch's grouped product equal the plain version's autograd, on the CPU as everywhere") {
  for (const auto kind : {ExpertKind::swiglu, ExpertKind::gelu})
    for (const int64_t n_idle : {0, 7})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        CAPTURE(n_idle);
        CAPTURE(c10::toString(type));
        const auto is = torch_case(kind, type, 40, n_idle);
        check_passes(is, *kernels::torch_grouped_products(is.call.offset_E1.slice(0, 1).to(at::kInt)));
      }
}

TEST_CASE("rows of nobody may hold anything") {
  auto is = torch_case(ExpertKind::swiglu, at::kFloat, 40, 7);
  is.call.token_R.slice(0, 0, is.n_working).clamp_max_(18);
  is.call.x_ND[19].fill_(std::numeric_limits<float>::quiet_NaN());  // what rows of nobody read
  is.call.gate_R.slice(0, is.n_working).fill_(std::numeric_limits<float>::quiet_NaN());
  const auto products = kernels::torch_grouped_products(is.call.offset_E1.slice(0, 1).to(at::kInt));
  const auto result = kernels::torch_experts_forward(*products, is.call, true);
  result.pre_RH.slice(0, is.n_working).fill_(std::numeric_limits<float>::quiet_NaN());
  const auto grads =
      kernels::torch_experts_backward(*products, is.call, result.pre_RH, is.grad_ND, {true, true, true, true});
  for (const auto& t : {result.out_ND, grads.x_ND, grads.gate_R, grads.first_EHD, grads.second_EDI})
    CHECK(at::isfinite(t).all().item<bool>());
}
#endif

TEST_CASE("sums of rows by token: bags, plain sums and a loop agree") {
  const Random random(11);
  for (const int64_t n_rows : {0, 1, 60})
    for (const bool gated : {false, true}) {
      CAPTURE(n_rows);
      CAPTURE(gated);
      const int64_t n_tokens = 9;
      const auto rows = random.at("rows").normal({n_rows, 5}, 1, at::kDouble);
      const auto gate = gated ? random.at("gate").normal({n_rows}, 1, at::kDouble) : Tensor();
      const auto token = random_ids(random.at("token"), n_rows, n_tokens + 1);  // the last one is nobody
      auto wanted = at::zeros({n_tokens, 5}, at::kDouble);
      for (int64_t r = 0; r < n_rows; ++r)
        if (const auto n = token[r].item<int64_t>(); n < n_tokens) wanted[n] += gated ? gate[r] * rows[r] : rows[r];
      CHECK(difference(kernels::token_sums(rows, gate, token, n_tokens), wanted) < 1e-14);
      CHECK(difference(kernels::token_sums_by_bags(rows, gate, token, n_tokens), wanted) < 1e-14);
    }
}

TEST_CASE("experts without any row have no result and zero gradients") {
  for (const auto kind : {ExpertKind::swiglu, ExpertKind::gelu}) {
    const auto is = torch_case(kind, at::kHalf, 0, 0);
    const auto products = kernels::looped_products(is.call.offset_E1);
    const auto result = kernels::torch_experts_forward(*products, is.call, true);
    CHECK(value_of(result.out_ND.abs().sum()) == 0);
    const auto grads =
        kernels::torch_experts_backward(*products, is.call, result.pre_RH, is.grad_ND, {true, true, true, true});
    for (const auto& t : {grads.x_ND, grads.first_EHD, grads.second_EDI}) CHECK(value_of(t.abs().sum()) == 0);
    CHECK(grads.gate_R.numel() == 0);
  }
}
