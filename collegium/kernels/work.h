// Shared by this room's files, not meant for others: element types, blocks of work, and threads.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "collegium/kernels/block_pool.h"
#include "collegium/kernels/isa.h"

namespace collegium::kernels {

/// Whether the hand-written loops take this tensor: on the CPU, float, double or bfloat16.
inline bool has_loops(const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  return tensor.is_cpu() && (type == at::kFloat || type == at::kDouble || type == at::kBFloat16);
}

/// Whether passes of ours with their own backward passes take it: in loops, or on a CUDA device. What is left runs the
/// plain versions.
inline bool has_passes(const at::Tensor& tensor) {
  return has_loops(tensor) || tensor.is_cuda();
}

/// Calls f(std::type_identity<S>{}) with the loops' element type for a type that has_loops() accepts.
template <class F>
auto by_element(at::ScalarType type, F&& f) {
  if (type == at::kFloat) return f(std::type_identity<float>{});
  if (type == at::kDouble) return f(std::type_identity<double>{});
  return f(std::type_identity<Bf16>{});
}

/// The torch type of sums over elements of `type`.
inline at::ScalarType wide_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

template <class S>
const S* data(const at::Tensor& tensor) {
  return static_cast<const S*>(tensor.const_data_ptr());
}
template <class S>
S* mutable_data(const at::Tensor& tensor) {
  return static_cast<S*>(tensor.mutable_data_ptr());
}

/// Uninitialised memory on cache-line boundaries; all but small pieces come from a pool and go back to it.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) {
    const size_t bytes = static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(T);
    pool_ = pool_for(bytes);
    if (pool_)
      block_ = pool_->take(bytes);
    else
      block_.data = ::operator new(bytes, alignment);
  }
  Scratch(Scratch&& other) noexcept : pool_(other.pool_), block_(std::exchange(other.block_, {})) {}
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() {
    if (pool_)
      pool_->give(block_);
    else
      ::operator delete(block_.data, alignment);
  }
  T* get() const { return static_cast<T*>(block_.data); }

 private:
  static constexpr std::align_val_t alignment{64};
  BlockPool* pool_ = nullptr;  // null: from the allocator
  BlockPool::Block block_;
};

/// Runs worker(i) for every i in [0, n) on ATen's threads. Each thread makes one worker, which may own scratch
/// memory, and takes the next task that nobody has; so tasks must not care who runs them or in which order.
template <class MakeWorker>
void run_tasks(int64_t n, const MakeWorker& make_worker) {
  if (n == 0) return;
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(n, at::get_num_threads());
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    auto worker = make_worker();
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) worker(i);
  });
}

/// A rectangle of a grouped product: some rows of one expert, some columns of its result.
struct Block {
  int64_t expert, row, n_rows, column, n_columns;
};

/// Cuts every expert's rows into nearly equal blocks of at most `rows`, and the columns too, in multiples of
/// `grain`, when there would be too few blocks to keep the threads busy.
inline std::vector<Block> cut_rows(const int64_t* offset, int64_t n_experts, int64_t rows, int64_t n_columns,
                                   int64_t grain) {
  std::vector<Block> blocks;
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  int64_t n_blocks = 0;
  for (int64_t e = 0; e < n_experts; ++e) n_blocks += ceil_div(offset[e + 1] - offset[e], rows);
  if (n_blocks == 0 || n_columns == 0) return blocks;
  const int64_t wanted = at::get_num_threads() > 1 ? 4 * at::get_num_threads() : 1;
  const int64_t parts = std::clamp<int64_t>(ceil_div(wanted, n_blocks), 1, ceil_div(n_columns, grain));
  const int64_t columns = ceil_div(ceil_div(n_columns, parts), grain) * grain;
  for (int64_t e = 0; e < n_experts; ++e) {
    const int64_t count = offset[e + 1] - offset[e], cuts = ceil_div(count, rows);
    for (int64_t c = 0; c < cuts; ++c) {
      const int64_t from = offset[e] + count * c / cuts, to = offset[e] + count * (c + 1) / cuts;
      for (int64_t j = 0; j < n_columns; j += columns)
        blocks.push_back({e, from, to - from, j, std::min(columns, n_columns - j)});
    }
  }
  return blocks;
}

}  // namespace collegium::kernels
