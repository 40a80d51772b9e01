#include "collegium/base/random.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace collegium {

Random Random::at(std::string_view name) const {
  uint64_t h = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const unsigned char c : name) h = (h ^ c) * 0x100000001b3ULL;
  return Random(state_ ^ mix(h), Tag{});
}

at::Generator Random::generator(const at::Device& device) const {
  if (device.is_cpu()) return at::detail::createCPUGenerator(bits(0));
  auto generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(bits(0));
  return generator;
}

Tensor Random::normal(at::IntArrayRef sizes, double std, const at::TensorOptions& options) const {
  if (options.device().is_meta()) return at::empty(sizes, options);  // a plan needs shapes, not numbers
  return at::empty(sizes, at::kDouble).normal_(0.0, std, generator()).to(options);
}

Tensor Random::uniform(at::IntArrayRef sizes, double low, double high, const at::TensorOptions& options) const {
  return at::empty(sizes, at::kDouble).uniform_(low, high, generator()).to(options);
}

}  // namespace collegium
