#include "collegium/kernels/grouped_mm.h"

#include <ATen/ATen.h>
#include <dlfcn.h>

#include <array>
#include <mutex>

#include "collegium/base/error.h"

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

std::string cuda_products_report(std::optional<Capability> capability) {
  if (!capability) return "a loop over the experts in every type (no CUDA device is known)";
  const auto choice = choose_product(at::kBFloat16, 8, 8, capability);
  if (!choice.is_grouped) return text("a loop over the experts in every type (", choice.why, ")");
  return text("torch's grouped product (at::_grouped_mm) for bfloat16 where widths are multiples of 8 (", choice.why,
              "), else a loop over the experts");
}

}  // namespace collegium::kernels
