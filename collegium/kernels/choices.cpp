// One pass to count and one to place: with few tokens, a tensor operation for each step would cost more than the
// experts.
#include "collegium/kernels/choices.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"
#include "collegium/kernels/counting_sort.h"

namespace collegium::kernels {
namespace {

template <class Id, class Gate>
ChoiceRows sorted(const Tensor& expert_NK, const Tensor& gate_NK, int64_t n_experts) {
  const auto n = expert_NK.numel(), k = expert_NK.size(1);
  const Id* id = expert_NK.const_data_ptr<Id>();
  const Gate* gate = gate_NK.const_data_ptr<Gate>();
  ChoiceRows out;
  out.offset_E1 = at::zeros({n_experts + 1}, at::kLong);
  auto* offset = out.offset_E1.mutable_data_ptr<int64_t>();
  out.token_R = fresh({n}, at::kLong), out.place_R = fresh({n}, at::kLong);
  out.gate_R = fresh({n}, gate_NK.options());
  auto *token = out.token_R.mutable_data_ptr<int64_t>(), *place = out.place_R.mutable_data_ptr<int64_t>();
  auto* to_gate = out.gate_R.mutable_data_ptr<Gate>();
  const auto rows = counting_sort(
      id, n, n_experts, offset,
      [&](Id e) {
        if (e < 0)
          fail(ErrorKind::usage, "grouped experts: expert ids must be in [0, ", n_experts,
               "), or above for no work, got ", e);
        return e < n_experts;
      },
      [&](int64_t i, int64_t row) { token[row] = i / k, place[row] = i, to_gate[row] = gate[i]; });
  if (rows < n)
    for (auto* t : {&out.token_R, &out.gate_R, &out.place_R}) *t = t->slice(0, 0, rows);
  return out;
}

}  // namespace

ChoiceRows sort_choices(const Tensor& expert_NK, const Tensor& gate_NK, int64_t n_experts, at::ScalarType gate_type) {
  require(expert_NK.is_cpu() && expert_NK.dim() == 2 && gate_NK.sizes() == expert_NK.sizes(),
          "sort_choices: expert ids [N, K] on the CPU and as many gates wanted, got ", expert_NK.sizes(), " and ",
          gate_NK.sizes());
  const auto id_NK = expert_NK.contiguous(), gate = gate_NK.detach().to(gate_type).contiguous();
  const bool is_long = id_NK.scalar_type() == at::kLong;
  require(is_long || id_NK.scalar_type() == at::kInt, "sort_choices: expert ids must be int64 or int32, got ",
          id_NK.scalar_type());
  if (gate_type == at::kDouble)
    return is_long ? sorted<int64_t, double>(id_NK, gate, n_experts) : sorted<int32_t, double>(id_NK, gate, n_experts);
  require(gate_type == at::kFloat, "sort_choices: gates in float32 or float64, not ", gate_type);
  return is_long ? sorted<int64_t, float>(id_NK, gate, n_experts) : sorted<int32_t, float>(id_NK, gate, n_experts);
}

}  // namespace collegium::kernels
