#include "collegium/kernels/block_pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "check.h"
#include "collegium/kernels/work.h"

namespace kernels = collegium::kernels;
using kernels::block_unit;
using kernels::BlockPool;
using namespace kernels_test;

TEST_CASE("the pool hands a freed block out again, also for a slightly smaller wish") {
  BlockPool pool(64 * block_unit);
  const auto first = pool.take(8 * block_unit - 100);
  CHECK(first.size == 8 * block_unit);
  CHECK(reinterpret_cast<uintptr_t>(first.data) % block_unit == 0);
  std::memset(first.data, 1, first.size);
  pool.give(first);
  CHECK(pool.counts().idle == 8 * block_unit);
  const auto second = pool.take(7 * block_unit);
  CHECK(second.data == first.data);
  const auto third = pool.take(8 * block_unit);
  CHECK(third.data != first.data);
  pool.give(second), pool.give(third);
  const auto small = pool.take(block_unit);  // not an eighth of a large one
  CHECK(small.size == block_unit);
  pool.give(small);
  CHECK(pool.counts().in_use == 0);
  CHECK(pool.counts().made == 3);
  CHECK(pool.counts().reused == 1);
}

TEST_CASE("the pool keeps no more than its limit, drops the oldest first, and can be emptied") {
  BlockPool pool(10 * block_unit);
  const auto a = pool.take(4 * block_unit), b = pool.take(5 * block_unit), c = pool.take(3 * block_unit),
             d = pool.take(11 * block_unit);
  pool.give(d);  // larger than all that may be kept
  CHECK(pool.counts().idle == 0);
  pool.give(a), pool.give(b);
  CHECK(pool.counts().idle == 9 * block_unit);
  pool.give(c);
  CHECK(pool.counts().idle == 8 * block_unit);  // a went
  CHECK(pool.release() == 8 * block_unit);
  CHECK(pool.release() == 0);
  CHECK(pool.counts().idle == 0);

  BlockPool none(0);
  none.give(none.take(1));
  CHECK(none.counts().idle == 0);
  CHECK(none.counts().in_use == 0);
  none.give({});
}

TEST_CASE("many small idle blocks stay bounded in number") {
  BlockPool pool(1000 * block_unit);
  std::vector<BlockPool::Block> blocks;
  for (int i = 0; i < 100; ++i) blocks.push_back(pool.take(block_unit));
  for (const auto& block : blocks) pool.give(block);
  CHECK(pool.counts().idle <= 64 * block_unit);
}

TEST_CASE("columns of middle size are kept in small units and begin on different cache lines of a page") {
  using kernels::column_unit;
  BlockPool pool(8 * column_unit, column_unit);
  const auto a = pool.take(2 * column_unit + 1), b = pool.take(3 * column_unit), c = pool.take(3 * column_unit);
  CHECK(a.size == 3 * column_unit);
  const auto place = [](const BlockPool::Block& block) { return reinterpret_cast<uintptr_t>(block.data) % 4096; };
  for (const auto& block : {a, b, c}) {
    CHECK(place(block) % 64 == 0);
    std::memset(block.data, 1, block.size);
  }
  CHECK(place(a) != place(b));
  CHECK(place(b) != place(c));
  pool.give(a), pool.give(b);
  const auto warm = pool.take(3 * column_unit);
  CHECK(warm.data == b.data);  // the last of the same size
  pool.give(c), pool.give(warm);
  CHECK(pool.counts().idle == 6 * column_unit);
  CHECK(pool.counts().made == 3);

  CHECK(kernels::pool_for(block_unit) == &kernels::block_pool());
  CHECK(kernels::pool_for(block_unit - 1) == &kernels::column_pool());
  CHECK(kernels::pool_for(2 * column_unit - 1) == nullptr);
  const auto before = kernels::column_pool().counts();
  {
    const auto column_R = kernels::fresh({32768}, at::kLong);
    CHECK(kernels::column_pool().counts().in_use == before.in_use + 4 * column_unit);
    const kernels::Scratch<double> scratch(32768);
    CHECK(kernels::column_pool().counts().in_use == before.in_use + 8 * column_unit);
  }
  CHECK(kernels::column_pool().counts().in_use == before.in_use);
}

TEST_CASE("threads take and give without losing or sharing a block") {
  BlockPool pool(6 * block_unit);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const auto block = pool.take(static_cast<size_t>(1 + (i + t) % 3) * block_unit);
        auto* first = static_cast<volatile int*>(block.data);
        *first = t * 1000 + i;
        std::this_thread::yield();
        if (*first != t * 1000 + i) ++wrong;
        pool.give(block);
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(pool.counts().in_use == 0);
  CHECK(pool.counts().idle <= 6 * block_unit);
}

TEST_CASE("large tensors and scratch memory use the pool and are ordinary otherwise") {
  const auto before = kernels::block_pool().counts();
  {
    auto tensor = kernels::fresh({3, 1 << 20}, at::TensorOptions().dtype(at::kFloat));
    CHECK(tensor.is_contiguous());
    CHECK(kernels::block_pool().counts().in_use == before.in_use + 6 * block_unit);
    tensor.fill_(2);
    CHECK(value_of(tensor.sum()) == 2.0 * 3 * (1 << 20));
    const auto view = tensor.select(0, 1);
    tensor = Tensor();
    CHECK(value_of(view[5]) == 2);
    auto grown = kernels::fresh({1 << 20}, at::TensorOptions().dtype(at::kDouble));
    grown.fill_(3);
    grown.resize_({(1 << 20) + 7});
    CHECK(value_of(grown[(1 << 20) - 1]) == 3);
    kernels::Scratch<float> scratch(1 << 20);
    const auto moved = std::move(scratch);
    moved.get()[(1 << 20) - 1] = 1;
    CHECK(kernels::fresh({0, 5}, at::TensorOptions().dtype(at::kBFloat16)).numel() == 0);
  }
  CHECK(kernels::block_pool().counts().in_use == before.in_use);
}

TEST_CASE("a forked child can use the pool") {
  std::atomic<bool> stop{false};
  kernels::block_pool();
  std::thread busy([&] {
    while (!stop) kernels::block_pool().give(kernels::block_pool().take(1));
  });
  for (int i = 0; i < 5; ++i) {
    const auto child = fork();
    if (child == 0) {
      kernels::block_pool().give(kernels::block_pool().take(1));
      _exit(7);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 7);
  }
  stop = true;
  busy.join();
}

TEST_CASE("the pool's limit is read from the environment or follows the machine") {
  CHECK(kernels::pool_limit("0", size_t{8} << 30) == 0);
  CHECK(kernels::pool_limit("100", 0) == size_t{100} << 20);
#ifndef __SANITIZE_ADDRESS__
  CHECK(kernels::pool_limit(nullptr, size_t{4} << 30) == size_t{512} << 20);
  CHECK(kernels::pool_limit("", size_t{400} << 30) == size_t{1} << 30);
#endif
  for (const char* wrong : {"-1", "a", "1.5", "10MiB", "99999999999999999999"})
    CHECK(complaint([&] { kernels::pool_limit(wrong, 0); }).find("COLLEGIUM_POOL_MIB") != std::string::npos);
}
