#include "collegium/kernels/cuda_driver.h"

#include <dlfcn.h>

#include <array>
#include <limits>
#include <mutex>

namespace collegium::kernels {
namespace {

std::optional<int> handle_of(int64_t device) {
  if (device < 0 || device > std::numeric_limits<int>::max()) return std::nullopt;
  const auto init = cuda_driver_function<int(unsigned)>("cuInit");
  const auto get = cuda_driver_function<int(int*, int)>("cuDeviceGet");
  int handle = 0;
  if (!init || !get || init(0) != 0 || get(&handle, static_cast<int>(device)) != 0) return std::nullopt;
  return handle;
}

std::optional<Capability> ask_capability(int64_t device) {
  constexpr int major_attribute = 75, minor_attribute = 76;
  const auto attribute = cuda_driver_function<int(int*, int, int)>("cuDeviceGetAttribute");
  const auto handle = handle_of(device);
  Capability out;
  if (!attribute || !handle || attribute(&out.major, major_attribute, *handle) != 0 ||
      attribute(&out.minor, minor_attribute, *handle) != 0)
    return std::nullopt;
  return out;
}

}  // namespace

void* cuda_driver_address(const char* name) {
  static void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  return driver ? dlsym(driver, name) : nullptr;
}

std::optional<Capability> cuda_capability(int64_t device) {
  constexpr int64_t most = 64;
  static std::array<std::once_flag, most> asked;
  static std::array<std::optional<Capability>, most> known;
  if (device < 0 || device >= most) return std::nullopt;
  const auto i = static_cast<size_t>(device);
  std::call_once(asked[i], [&] { known[i] = ask_capability(device); });
  return known[i];
}

std::optional<std::string> cuda_device_name(int64_t device) {
  const auto ask = cuda_driver_function<int(char*, int, int)>("cuDeviceGetName");
  const auto handle = handle_of(device);
  std::array<char, 256> name{};
  if (!ask || !handle || ask(name.data(), static_cast<int>(name.size()), *handle) != 0) return std::nullopt;
  return std::string(name.data());
}

std::optional<int64_t> cuda_memory_bytes(int64_t device) {
  const auto total = cuda_driver_function<int(size_t*, int)>("cuDeviceTotalMem_v2");
  const auto handle = handle_of(device);
  size_t bytes = 0;
  if (!total || !handle || total(&bytes, *handle) != 0) return std::nullopt;
  return static_cast<int64_t>(bytes);
}

}  // namespace collegium::kernels
