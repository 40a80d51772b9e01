// A C++ module whose tensors Python owns: before each call the tensors that Python holds now are put in place, so
// that optimisers, `.to`, `load_state_dict`, `deepcopy` and `functional_call` need no help from the C++ side.
//
// N tokens, D model width.
#pragma once
#include <torch/csrc/utils/pybind.h>

#include <mutex>

#include "collegium/base/parameters.h"
#include "collegium/route/context.h"

namespace collegium::python {

using at::Tensor;

/// What a call from Python says of its tokens. Undefined tensors = not given.
struct CallContext {
  std::string phase = "evaluate";  ///< train, evaluate, recompute, replay
  std::optional<Tensor> token_ids_N, mask_N, sequence_N;
  int64_t n_sequences = 1;
  uint64_t noise_seed = 0;
  bool record = false;
  std::optional<Tensor> attention_BTT, carried_NH;
  bool losses = true;
};

route::Phase phase_of(const std::string& name);
route::Context context_from(const CallContext& call, const Tensor& x_ND);

/// The tensors of one module, in the order of its `collect`.
class Bound {
 public:
  explicit Bound(std::vector<ParameterRef> items) : items_(std::move(items)) {}

  /// [(dotted name, "matrix" | "embedding" | "vector" | "buffer", tensor)].
  py::list list() const;

  /// Runs `work` on `tensors`, without the interpreter's lock. Buffers that `work` replaced are copied back into
  /// Python's, so that these stay the same objects.
  template <class Work>
  auto with(const std::vector<Tensor>& tensors, const Work& work) {
    const py::gil_scoped_release released;
    const std::lock_guard guard(mutex_);
    put(tensors);
    struct Settled {
      Bound& bound;
      const std::vector<Tensor>& tensors;
      ~Settled() { bound.let_go(tensors); }
    } settled{*this, tensors};
    if constexpr (std::is_void_v<decltype(work())>) {
      work();
      copy_back(tensors);
    } else {
      auto result = work();
      copy_back(tensors);
      return result;
    }
  }

 private:
  void put(const std::vector<Tensor>& tensors);
  void copy_back(const std::vector<Tensor>& tensors);
  void let_go(const std::vector<Tensor>& tensors) noexcept;

  std::vector<ParameterRef> items_;
  std::recursive_mutex mutex_;  // a callback of `generate` may use its own model
};

}  // namespace collegium::python
