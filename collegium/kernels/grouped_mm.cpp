#include "collegium/kernels/grouped_mm.h"

#include <ATen/ATen.h>

#include "collegium/base/error.h"

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

std::string cuda_products_report(std::optional<Capability> capability) {
  if (!capability) return "a loop over the experts in every type (no CUDA device is known)";
  const auto choice = choose_product(at::kBFloat16, 8, 8, capability);
  if (!choice.is_grouped) return text("a loop over the experts in every type (", choice.why, ")");
  return text("torch's grouped product (at::_grouped_mm) for bfloat16 where widths are multiples of 8 (", choice.why,
              "), else a loop over the experts");
}

}  // namespace collegium::kernels
