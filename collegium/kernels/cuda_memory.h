// How much memory of a CUDA device work takes, for plans.
#pragma once
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace collegium::kernels {

/// Watches torch's allocator from its construction on. What the allocator keeps for later is given back first, so that
/// it does not hide what is needed.
class CudaPeak {
 public:
  explicit CudaPeak(c10::Device device);
  /// Bytes in use on the device that are not the allocator's: its context, and other processes.
  std::optional<int64_t> others() const;
  /// The most that the allocator has taken of the device since. Nothing where this torch does not tell (before 2.11).
  std::optional<int64_t> bytes() const;

 private:
  c10::Device device_;
};

}  // namespace collegium::kernels
