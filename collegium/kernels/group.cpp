#include "collegium/kernels/group.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"
#include "collegium/kernels/counting_sort.h"

namespace collegium::kernels {
namespace {

void check_expert_ids(const Tensor& expert_R, int64_t n_experts) {
  require(n_experts >= 0, "group_by_expert: n_experts must be at least 0, got ", n_experts);
  require(expert_R.dim() == 1 && expert_R.scalar_type() == at::kLong,
          "group_by_expert: expert_R must be int64 [R], got ", expert_R.scalar_type(), " ", expert_R.sizes());
}

[[noreturn]] void fail_expert_id(int64_t id, int64_t n_experts) {
  fail(ErrorKind::usage, "group_by_expert: expert ids must be in [0, ", n_experts, "), got ", id);
}

}  // namespace

Grouped group_by_expert(const Tensor& expert_R, int64_t n_experts) {
  if (!expert_R.is_cpu()) return plain::group_by_expert(expert_R, n_experts);
  check_expert_ids(expert_R, n_experts);
  const auto ids = expert_R.contiguous();
  const auto* id = ids.const_data_ptr<int64_t>();
  const int64_t n = ids.numel();
  Grouped out{fresh({n}, at::kLong), at::zeros({n_experts + 1}, at::kLong)};
  auto* offset = out.offset_E1.mutable_data_ptr<int64_t>();
  auto* order = out.order_R.mutable_data_ptr<int64_t>();
  counting_sort(
      id, n, n_experts, offset,
      [&](int64_t e) {
        if (e < 0 || e >= n_experts) fail_expert_id(e, n_experts);
        return true;
      },
      [&](int64_t r, int64_t row) { order[row] = r; });
  return out;
}

namespace plain {

Grouped group_by_expert(const Tensor& expert_R, int64_t n_experts) {
  check_expert_ids(expert_R, n_experts);
  if (expert_R.numel() > 0) {
    const auto low = expert_R.min().item<int64_t>(), high = expert_R.max().item<int64_t>();
    if (low < 0) fail_expert_id(low, n_experts);
    if (high >= n_experts) fail_expert_id(high, n_experts);
  }
  const auto order_R = std::get<1>(at::sort(expert_R, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  const auto count_E = at::bincount(expert_R.cpu(), {}, n_experts);
  return {order_R, at::cat({at::zeros({1}, at::kLong), count_E.cumsum(0)})};
}

}  // namespace plain
}  // namespace collegium::kernels
