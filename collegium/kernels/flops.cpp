#include "collegium/kernels/flops.h"

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <string_view>

namespace collegium::kernels {

namespace {

// The innermost counter of this thread. A callback of torch is a plain function, so it cannot carry it.
thread_local double* innermost = nullptr;

double length(const at::Tensor& t, int64_t dim) {
  return static_cast<double>(t.size(dim));
}

double product_flops(std::string_view name, c10::ArrayRef<const c10::IValue> inputs) {
  const auto tensor = [&](size_t i) { return inputs[i].toTensor(); };
  const auto of = [&](const at::Tensor& a, const at::Tensor& b) {
    return 2 * static_cast<double>(a.numel()) * length(b, b.dim() - 1);
  };
  if (name == "aten::mm" || name == "aten::bmm") return of(tensor(0), tensor(1));
  if (name == "aten::addmm" || name == "aten::baddbmm" || name == "aten::addbmm") return of(tensor(1), tensor(2));
  if (name == "aten::mv" || name == "aten::dot") return 2 * static_cast<double>(tensor(0).numel());
  if (name == "aten::addmv") return 2 * static_cast<double>(tensor(1).numel());
  if (name == "aten::_scaled_dot_product_flash_attention_for_cpu" ||
      name == "aten::_scaled_dot_product_flash_attention" || name == "aten::_scaled_dot_product_efficient_attention") {
    const auto q_BHTd = tensor(0), k_BHTd = tensor(1), v_BHTd = tensor(2);
    // (query, key, value, dropout, is_causal, …) except for the efficient one, which has two more before.
    const size_t causal_at = name.ends_with("efficient_attention") ? 6 : 4;
    const double share =
        inputs.size() > causal_at && inputs[causal_at].isBool() && inputs[causal_at].toBool() ? 0.5 : 1;
    return share * 2 * static_cast<double>(q_BHTd.numel() / q_BHTd.size(3)) * length(k_BHTd, 2) *
           (length(q_BHTd, 3) + length(v_BHTd, 3));
  }
  return 0;
}

std::unique_ptr<at::ObserverContext> seen(const at::RecordFunction& function) {
  if (innermost) *innermost += product_flops(function.name(), function.inputs());
  return nullptr;
}

}  // namespace

FlopCounter::FlopCounter() : outer_(innermost) {
  innermost = &flops_;
  if (!outer_)
    callback_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback(seen).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
}

FlopCounter::~FlopCounter() {
  innermost = outer_;
  if (outer_)
    *outer_ += flops_;
  else
    at::removeCallback(callback_);
}

void count_flops(double flops) {
  if (innermost) *innermost += flops;
}

}  // namespace collegium::kernels
