#include "collegium/kernels/block_pool.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <pthread.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string_view>

#include "collegium/base/error.h"
#include "collegium/kernels/pages.h"

namespace collegium::kernels {
namespace {

constexpr size_t page = 4096, line = 64;

// Torch's view of a pool: what a tensor's storage calls. A storage that grows may ask for any size.
class PoolAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* pool = pool_for(bytes);
    if (!pool) pool = &column_pool();
    auto* held = new Held{*pool, pool->take(bytes)};
    return {held->block.data, held, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

 private:
  struct Held {
    BlockPool& pool;
    BlockPool::Block block;
  };
  static void give_back(void* context) {
    auto* held = static_cast<Held*>(context);
    held->pool.give(held->block);
    delete held;
  }
};

// Never destroyed: tensors of static storage may be freed after it would be.
template <class Tag>
BlockPool& lasting_pool(size_t share, size_t unit) {
  static BlockPool& pool = *[&] {
    auto* made = new BlockPool(pool_limit(std::getenv("COLLEGIUM_POOL_MIB"), usable_memory()) / share, unit);
    static BlockPool* const around_fork = made;
    pthread_atfork([] { around_fork->lock(); }, [] { around_fork->unlock(); }, [] { around_fork->unlock(); });
    return made;
  }();
  return pool;
}

}  // namespace

BlockPool::Block BlockPool::from_system(size_t size) {
  if (unit_ >= block_unit) {
    const Block block{::operator new(size, std::align_val_t{block_unit}), size};
    prefer_large_pages(block.data, size);
    return block;
  }
  const size_t offset = n_asked_.fetch_add(5) * line % page;  // 5: neighbours lie apart
  auto* start = static_cast<char*>(::operator new(size + page, std::align_val_t{page}));
  return {start + offset, size, offset};
}

void BlockPool::give_to_system(const Block& block) const noexcept {
  ::operator delete(static_cast<char*>(block.data) - block.offset,
                    std::align_val_t{unit_ >= block_unit ? block_unit : page});
}

BlockPool::Block BlockPool::take(size_t bytes) {
  const size_t size = (std::max<size_t>(bytes, 1) + unit_ - 1) / unit_ * unit_;
  {
    const std::lock_guard lock(mutex_);
    size_t best = n_idle_;
    for (size_t i = 0; i < n_idle_; ++i)
      if (idle_[i].size >= size && idle_[i].size - size <= size / 4 &&
          (best == n_idle_ || idle_[i].size <= idle_[best].size))
        best = i;
    if (best < n_idle_) {
      const Block block = idle_[best];
      std::copy(idle_.begin() + best + 1, idle_.begin() + n_idle_, idle_.begin() + best);
      --n_idle_;
      counts_.idle -= block.size;
      counts_.in_use += block.size;
      ++counts_.reused;
      return block;
    }
  }
  Block block;
  try {
    block = from_system(size);
  } catch (const std::bad_alloc&) {
    if (release() == 0) throw;
    block = from_system(size);
  }
  const std::lock_guard lock(mutex_);
  counts_.in_use += size;
  ++counts_.made;
  return block;
}

void BlockPool::give(Block block) noexcept {
  if (!block.data) return;
  {
    const std::lock_guard lock(mutex_);
    counts_.in_use -= block.size;
    if (block.size <= limit_) {
      while (n_idle_ == idle_.size() || counts_.idle + block.size > limit_) drop_oldest();
      idle_[n_idle_++] = block;
      counts_.idle += block.size;
      return;
    }
  }
  give_to_system(block);
}

void BlockPool::drop_oldest() noexcept {
  give_to_system(idle_[0]);
  counts_.idle -= idle_[0].size;
  std::copy(idle_.begin() + 1, idle_.begin() + n_idle_, idle_.begin());
  --n_idle_;
}

size_t BlockPool::release() noexcept {
  const std::lock_guard lock(mutex_);
  const size_t bytes = counts_.idle;
  while (n_idle_ > 0) drop_oldest();
  return bytes;
}

BlockCounts BlockPool::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

size_t pool_limit(const char* setting, [[maybe_unused]] size_t memory) {
  const std::string_view given = setting ? setting : "";
  if (given.empty()) {
#ifdef __SANITIZE_ADDRESS__
    return 0;
#else
    return std::min(memory / 8, size_t{1} << 30);
#endif
  }
  size_t mib = 0;
  const auto [end, problem] = std::from_chars(given.data(), given.data() + given.size(), mib);
  require(
      problem == std::errc() && end == given.data() + given.size() && mib <= std::numeric_limits<size_t>::max() >> 20,
      "COLLEGIUM_POOL_MIB: a whole number of MiB wanted (0 keeps no memory), got '", given, "'");
  return mib << 20;
}

BlockPool& block_pool() {
  return lasting_pool<struct Large>(1, block_unit);
}

BlockPool& column_pool() {
  return lasting_pool<struct Columns>(16, column_unit);
}

at::Tensor fresh(at::IntArrayRef sizes, const at::TensorOptions& options) {
  size_t bytes = options.dtype().itemsize();
  for (const auto size : sizes) bytes *= static_cast<size_t>(size);
  if (!pool_for(bytes)) return at::empty(sizes, options);
  static PoolAllocator allocator;
  return at::detail::empty_generic(sizes, &allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

}  // namespace collegium::kernels
