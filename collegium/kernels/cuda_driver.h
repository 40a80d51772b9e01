// What NVIDIA's driver says of its devices. It is opened when it is there, so that no CUDA header and no CUDA build is
// needed to ask. Devices are numbered as in "cuda:N".
#pragma once
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

namespace collegium::kernels {

/// A CUDA device's generation: 9.0 is Hopper.
struct Capability {
  int major = 0, minor = 0;
};

/// The number of a CUDA device: "cuda" without one is the first.
inline int64_t cuda_index(c10::Device device) {
  return device.has_index() ? device.index() : 0;
}

/// A function of the driver's interface (cuda.h), which is fixed; null where there is no driver or no such function.
void* cuda_driver_address(const char* name);
template <class Function>
Function* cuda_driver_function(const char* name) {
  return reinterpret_cast<Function*>(cuda_driver_address(name));
}

/// Nothing without a driver or such a device. Asked once a device.
std::optional<Capability> cuda_capability(int64_t device);

/// "NVIDIA H200". Nothing without a driver or such a device.
std::optional<std::string> cuda_device_name(int64_t device);

/// All memory of the device, in bytes, whoever uses it. Nothing without a driver or such a device.
std::optional<int64_t> cuda_memory_bytes(int64_t device);

}  // namespace collegium::kernels
