#include "collegium/kernels/grouped_mm.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"
#include "collegium/kernels/experts.h"

namespace collegium::kernels {

ProductChoice choose_product(at::ScalarType type, int64_t width, int64_t hidden, std::optional<Capability> capability) {
#if !__has_include(<ATen/ops/_grouped_mm.h>)
  return {false, "this torch has no grouped product"};
#endif
  if (!capability) return {false, "no CUDA device is known"};
  if (type != at::kBFloat16) return {false, text("torch's grouped product is for bfloat16, not ", type)};
  if (capability->major < 9)
    return {false, text("torch's grouped product is for compute capability 9.0 and later, not ", capability->major, ".",
                        capability->minor)};
  if (width % 8 != 0 || hidden % 8 != 0)
    return {false, text("torch's grouped product takes widths that are multiples of 8, not ", width, " and ", hidden)};
  return {true, text("bfloat16 on compute capability ", capability->major, ".", capability->minor)};
}

bool uses_grouped_mm(const Tensor& x_ND, const Tensor& second_EDI) {
  if (!x_ND.is_cuda()) return false;
  return choose_product(x_ND.scalar_type(), second_EDI.size(1), second_EDI.size(2), cuda_capability(x_ND.get_device()))
      .is_grouped;
}

Tensor grouped_mm_experts(ExpertKind kind, const Tensor& x_ND, const Tensor& gate_A, const Tensor& token_A,
                          const Tensor& end_E, const Tensor& first_EHD, const Tensor& second_EDI, bool all_work) {
#if __has_include(<ATen/ops/_grouped_mm.h>)
  // Rows behind the last end are left as they are by a grouped product, and would reach sums as anything.
  Tensor idle_A1;
  if (!all_work) idle_A1 = at::arange(token_A.size(0), end_E.options()).ge(end_E.slice(0, -1)).unsqueeze(1);
  const auto silenced = [&](const Tensor& rows) { return all_work ? rows : rows.masked_fill(idle_A1, 0); };
  const auto product = [&](const Tensor& rows, const Tensor& weight) {
    return silenced(at::_grouped_mm(rows, weight.transpose(1, 2), end_E));
  };
  const auto h_AH = product(silenced(x_ND.index_select(0, token_A)), first_EHD);
  const auto a_AI = kind == ExpertKind::swiglu ? plain::swiglu(h_AH) : at::gelu(h_AH);
  return plain::combine(product(a_AI, second_EDI), gate_A, token_A, x_ND.size(0));
#else
  fail(ErrorKind::usage, "grouped_mm_experts: this torch has no grouped product");
#endif
}

std::string cuda_products_report(std::optional<Capability> capability) {
  if (!capability) return "a loop over the experts in every type (no CUDA device is known)";
  const auto choice = choose_product(at::kBFloat16, 8, 8, capability);
  if (!choice.is_grouped) return text("a loop over the experts in every type (", choice.why, ")");
  return text("torch's grouped product (at::_grouped_mm) for bfloat16 where widths are multiples of 8 (", choice.why,
              "), else a loop over the experts");
}

}  // namespace collegium::kernels
