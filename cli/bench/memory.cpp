#include "cli/bench/memory.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <fstream>
#include <mutex>
#include <new>
#include <unordered_map>

#include "collegium/base/error.h"
#include "collegium/kernels/block_pool.h"

namespace collegium::cli {
namespace {

// Counts what tensors hold. Sizes are kept aside: some of torch's code wants blocks that begin at their data.
class CountingAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t n) override {
    constexpr size_t line = 64;
    auto* block = std::aligned_alloc(line, (n + line) / line * line);
    if (!block) throw std::bad_alloc();
    const std::lock_guard lock(mutex_);
    size_of_[block] = n;
    held_ += n;
    return {block, block, &free_block, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
  static size_t held() {
    const std::lock_guard lock(mutex_);
    return held_;
  }

 private:
  static void free_block(void* block) {
    const std::lock_guard lock(mutex_);
    const auto found = size_of_.find(block);
    held_ -= found->second;
    size_of_.erase(found);
    std::free(block);
  }
  static inline std::mutex mutex_;
  static inline std::unordered_map<void*, size_t> size_of_;
  static inline size_t held_ = 0;
};

// Torch's tensors and those of our pools.
double held_bytes() {
  return static_cast<double>(CountingAllocator::held() + kernels::block_pool().counts().in_use +
                             kernels::column_pool().counts().in_use);
}

// "VmHWM", the most that was resident since the mark was last taken back; in bytes.
double resident_peak() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmHWM:") {
      double kib = 0;
      status >> kib;
      return 1024 * kib;
    }
  fail(ErrorKind::io, "bench: /proc/self/status tells no VmHWM");
}

// Takes the mark back to what is resident now. Where that is refused, the mark stays where building the problem put it.
void forget_peak() {
  std::ofstream("/proc/self/clear_refs") << "5";
}

}  // namespace

PassMemory pass_memory(const ExpertShape& shape, at::ScalarType type, std::string_view contender) {
  const auto contender_of = [&](const ExpertProblem& problem, bool backward) {
    auto all = expert_contenders(problem, backward);
    std::vector<std::string> names;
    for (auto& one : all) {
      if (one.name == contender) return one;
      names.push_back(one.name);
    }
    fail(ErrorKind::usage, "bench: no contender '", contender, "' (there are: ", join(names), ")");
  };
  // Threads, libraries and their tables are there before anything is counted.
  const auto small = make_problem({4, 16, 16, 2, 1, true}, Skew::uniform, type);
  contender_of(small, true).run();

  PassMemory out;
  const auto problem = make_problem(shape, Skew::uniform, type);
  const auto one = contender_of(problem, true);
  forget_peak();
  const double before = resident_peak();
  one.run();
  out.peak_bytes = resident_peak() - before;

  static CountingAllocator allocator;
  auto* const usual = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&allocator, 100);
  const double held = held_bytes();
  {
    const at::AutoGradMode mode(true);
    const auto y_TD = run_experts(contender, problem);
    out.saved_bytes = held_bytes() - held - static_cast<double>(y_TD.nbytes());
  }
  c10::SetCPUAllocator(usual, 100);
  return out;
}

}  // namespace collegium::cli
