#include "collegium/kernels/cuda_memory.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <torch/version.h>

#include "collegium/kernels/cuda_driver.h"

namespace collegium::kernels {

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 11
namespace {

c10::DeviceAllocator* allocator() {
  return dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
}

// Summed over the allocator's two pools.
const auto& reserved(const c10::CachingDeviceAllocator::DeviceStats& stats) {
  return stats.reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

}  // namespace

CudaPeak::CudaPeak(c10::Device device) : device_(device.type(), static_cast<c10::DeviceIndex>(cuda_index(device))) {
  const c10::DeviceGuard guard(device_);
  at::empty({1}, at::TensorOptions(at::kFloat).device(device_));  // the allocator and the device's context
  if (auto* const torch = allocator()) {
    torch->emptyCache();
    torch->resetPeakStats(device_.index());
  }
}

std::optional<int64_t> CudaPeak::others() const {
  const c10::DeviceGuard guard(device_);
  const auto ask = cuda_driver_function<int(size_t*, size_t*)>("cuMemGetInfo_v2");
  auto* const torch = allocator();
  size_t free = 0, all = 0;
  if (!ask || !torch || ask(&free, &all) != 0) return std::nullopt;
  return static_cast<int64_t>(all - free) - reserved(torch->getDeviceStats(device_.index())).current;
}

std::optional<int64_t> CudaPeak::bytes() const {
  auto* const torch = allocator();
  return torch ? std::optional(reserved(torch->getDeviceStats(device_.index())).peak) : std::nullopt;
}
#else
CudaPeak::CudaPeak(c10::Device device) : device_(device) {}
std::optional<int64_t> CudaPeak::others() const {
  return std::nullopt;
}
std::optional<int64_t> CudaPeak::bytes() const {
  return std::nullopt;
}
#endif

}  // namespace collegium::kernels
