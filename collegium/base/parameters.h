// How modules show their tensors: one `collect` lists parameters (trained) and buffers (state that checkpoints
// keep and optimisers leave alone), each as a reference, so that an optimiser, a checkpoint, the Python package
// and a device move all see, and may replace, the tensor that the module uses.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace collegium {

using at::Tensor;

/// How an optimiser should treat a parameter.
enum class ParameterKind {
  matrix,     ///< weight matrices, or stacks of them [E, H, D]: decayed; Muon orthogonalises them
  embedding,  ///< lookup tables and routers' expert embeddings: decayed, never orthogonalised
  vector,     ///< gains and biases: not decayed
  buffer      ///< state: no gradient
};

struct ParameterRef {
  std::string name;  ///< dotted path, "layers.3.moe.router.scorer.weight"
  Tensor* tensor;
  ParameterKind kind;
  bool trained() const { return kind != ParameterKind::buffer; }
};

class ParameterList {
 public:
  void parameter(std::string_view name, Tensor& tensor, ParameterKind kind = ParameterKind::matrix) {
    items_.push_back({prefix_ + std::string(name), &tensor, kind});
  }
  void buffer(std::string_view name, Tensor& tensor) {
    items_.push_back({prefix_ + std::string(name), &tensor, ParameterKind::buffer});
  }
  /// Collects `module` below `name`.
  template <class Module>
  void child(std::string_view name, Module& module) {
    const auto outer = prefix_;
    prefix_ += std::string(name) + ".";
    module.collect(*this);
    prefix_ = outer;
  }
  const std::vector<ParameterRef>& items() const { return items_; }

 private:
  std::string prefix_;
  std::vector<ParameterRef> items_;
};

/// Everything that `module` shows.
template <class Module>
std::vector<ParameterRef> parameters_of(Module& module) {
  ParameterList list;
  module.collect(list);
  return list.items();
}

}  // namespace collegium
