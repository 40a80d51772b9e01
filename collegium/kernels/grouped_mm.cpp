#include "collegium/kernels/grouped_mm.h"

#include <ATen/ATen.h>
#include <dlfcn.h>

#include <array>
#include <mutex>

#include "collegium/base/error.h"
#include "collegium/kernels/experts.h"

namespace collegium::kernels {
namespace {

// The driver's interface, which is fixed: three functions of cuda.h and the numbers of two attributes.
std::optional<Capability> ask_driver(int device) {
  static void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!driver) return std::nullopt;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto attribute = reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  constexpr int major_attribute = 75, minor_attribute = 76;
  int handle = 0;
  Capability out;
  if (!init || !get || !attribute || init(0) != 0 || get(&handle, device) != 0 ||
      attribute(&out.major, major_attribute, handle) != 0 || attribute(&out.minor, minor_attribute, handle) != 0)
    return std::nullopt;
  return out;
}

}  // namespace

std::optional<Capability> cuda_capability(int64_t device) {
  constexpr int64_t most = 64;
  static std::array<std::once_flag, most> asked;
  static std::array<std::optional<Capability>, most> known;
  if (device < 0 || device >= most) return std::nullopt;
  const auto i = static_cast<size_t>(device);
  std::call_once(asked[i], [&] { known[i] = ask_driver(static_cast<int>(device)); });
  return known[i];
}

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
