// Random numbers as arguments. A Random is a seed with a name tree: `random.at("layer", 3)` is a stream of its
// own, whatever was drawn elsewhere, so adding a parameter never changes another one's initial value, a
// recomputed layer draws the same noise again, and a resumed run needs no generator state.
#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace collegium {

using at::Tensor;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(mix(seed ^ 0x6a09e667f3bcc909ULL)) {}

  /// The stream below this one under `name`.
  Random at(std::string_view name) const;
  /// The stream below this one under number `index`.
  Random at(uint64_t index) const { return Random(state_ + 0x9e3779b97f4a7c15ULL * (index + 1), Tag{}); }

  /// The i-th 64-bit number of the stream (SplitMix64), without state.
  uint64_t bits(uint64_t i) const { return mix(state_ ^ mix(i + 0x2545f4914f6cdd1dULL)); }
  /// The i-th number in [0, 1), with 53 random bits.
  double uniform(uint64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1.0p-53; }
  /// The i-th integer in [0, n), n > 0 (bias below n / 2^64).
  uint64_t below(uint64_t i, uint64_t n) const {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>(bits(i)) * n) >> 64);
  }

  /// A fresh torch generator on `device`, seeded from this stream.
  at::Generator generator(const at::Device& device = at::kCPU) const;

  /// Normal numbers (mean 0) drawn on the CPU, then moved: equal on every device.
  Tensor normal(at::IntArrayRef sizes, double std, const at::TensorOptions& options) const;
  /// Uniform numbers in [low, high), drawn on the CPU, then moved.
  Tensor uniform(at::IntArrayRef sizes, double low, double high, const at::TensorOptions& options) const;

 private:
  struct Tag {};
  Random(uint64_t state, Tag) : state_(mix(state)) {}
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

}  // namespace collegium
