// Large blocks of memory, kept for the next one who needs the same size: gradients of expert weights and the scratch
// memory of a pass are as large in every step as in the step before.
//
// Given back to the system and asked for again, such a block costs a page fault and the zeroing of every page, and on a
// virtual machine that reports free memory to its host it can cost far more: the first touch then seems to wait until
// the host has found memory. Measured on such a machine with 200 MiB of gradients a pass, 256 experts: 0.03 s of system
// time a pass while nobody else freed memory; in two of four passes after much had been freed 0.36 and 0.46 s, with as
// many large-page faults, no fallback to small pages and no compaction (/proc/vmstat: compact_stall 0), the time below
// clear_page. Looking for large pages, which was first suspected, is not the cause.
#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace collegium::kernels {

/// Sizes are rounded up to whole units of this, and blocks begin on a multiple of it: one large page.
constexpr size_t block_unit = size_t{2} << 20;

/// The unit of the columns of a decision and other results of middle size. The allocator gives such memory back to the
/// system when the last of a pass is freed, and every pass then faults it in again: with 256 experts and 4,096 tokens
/// a third of a router's time. They begin on different cache lines of a page: columns that are written row by row would
/// else meet in the same few lines of the cache.
constexpr size_t column_unit = size_t{64} << 10;

struct BlockCounts {
  size_t in_use = 0, idle = 0;  ///< bytes
  int64_t made = 0, reused = 0;
};

/// Keeps at most `limit` bytes of idle blocks; the ones that lay idle longest go back to the system first. Any thread
/// may call anything.
class BlockPool {
 public:
  struct Block {
    void* data = nullptr;
    size_t size = 0;    ///< at least what was asked for
    size_t offset = 0;  ///< of the data within what the system gave
  };

  explicit BlockPool(size_t limit, size_t unit = block_unit) : limit_(limit), unit_(unit) {}
  ~BlockPool() { release(); }
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  /// An idle block of the size, or one up to a quarter larger, else a new one. Its contents are anything.
  Block take(size_t bytes);
  void give(Block block) noexcept;
  /// Gives all idle blocks back to the system and returns how many bytes they had.
  size_t release() noexcept;
  BlockCounts counts() const;

  /// For the calls around a fork: the child must not inherit a mutex that another thread holds.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  void drop_oldest() noexcept;
  Block from_system(size_t size);
  void give_to_system(const Block& block) const noexcept;

  mutable std::mutex mutex_;
  std::array<Block, 64> idle_;  // the oldest first
  size_t n_idle_ = 0;
  const size_t limit_, unit_;
  std::atomic<size_t> n_asked_{0};
  BlockCounts counts_;
};

/// The process's pool, behind fresh() and Scratch (work.h). Its limit is an eighth of the memory that this process may
/// use, at most 1 GiB; the environment variable COLLEGIUM_POOL_MIB sets another (0: keep nothing). With
/// AddressSanitizer it keeps nothing unless told to, so that a use after free is seen.
BlockPool& block_pool();

/// The pool of blocks of middle size, in units of column_unit; its limit is a sixteenth of the other's.
BlockPool& column_pool();

/// The pool that a block of so many bytes comes from; none for small ones, which the allocator keeps by itself.
inline BlockPool* pool_for(size_t bytes) {
  return bytes >= block_unit ? &block_pool() : bytes >= 2 * column_unit ? &column_pool() : nullptr;
}

/// The limit that `setting` (COLLEGIUM_POOL_MIB, "" when unset) asks for on a machine with `memory` bytes.
/// Throws a usage Error unless it is a whole number.
size_t pool_limit(const char* setting, size_t memory);

/// An uninitialised tensor on the CPU. Memory of 128 KiB and more comes from a pool and goes back to it.
at::Tensor fresh(at::IntArrayRef sizes, const at::TensorOptions& options);

}  // namespace collegium::kernels
