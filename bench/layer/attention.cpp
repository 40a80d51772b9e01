// Kinds of attention by length of the sequence: time of a forward and backward pass and the memory that it takes at
// its peak beyond parameters and input, each beside full attention in turns of one process.
//
//   bench_layer_attention [turns] [threads] [wall|cpu]
//
// B = 1 sequence of T tokens, D = 256 model width, heads of width 32: full attention with 8 heads; MoSA with the same 8
// heads, but 6 of them sparse (what sparse heads save); MoSA with as many sparse heads as cost what those 6 cost
// (equal work). Each sparse head takes k = 32 tokens at every length.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "collegium/layer/attention.h"

namespace {

using namespace collegium;

// Counts what tensors hold: torch's own allocator with the size written before each block.
class CountingAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t n) override {
    auto* block = static_cast<char*>(std::aligned_alloc(kHead, (n + kHead + kHead - 1) / kHead * kHead));
    *reinterpret_cast<size_t*>(block) = n;
    const auto now = held_ += n;
    for (auto peak = peak_.load(); now > peak && !peak_.compare_exchange_weak(peak, now);) {
    }
    return {block + kHead, block, &free_block, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
  static size_t held() { return held_; }
  static size_t peak() { return peak_; }
  static void start() { peak_ = held_.load(); }

 private:
  static constexpr size_t kHead = 64;
  static void free_block(void* block) {
    held_ -= *static_cast<size_t*>(block);
    std::free(block);
  }
  static inline std::atomic<size_t> held_ = 0, peak_ = 0;
};

struct Contender {
  std::string name;
  std::unique_ptr<layer::Attention> attention;
  std::vector<Tensor> weights;
  std::vector<double> seconds;
  double bytes = 0;
};

constexpr int64_t kD = 256, kHeads = 8, kSparse = 6, kTaken = 32;

Contender made(std::string name, const Named& named) {
  Contender c{.name = std::move(name)};
  c.attention = find(layer::attentions(), named, "attention")
                    .make(named, {.d_model = kD,
                                  .n_heads = kHeads,
                                  .n_kv_heads = kHeads,
                                  .random = Random(1),
                                  .options = at::kFloat,
                                  .corpus = {}});
  for (const auto& p : parameters_of(*c.attention)) c.weights.push_back(*p.tensor);
  return c;
}

Named mosa(int64_t n_sparse, int64_t T) {
  return {.name = "mosa",
          .fields = table(
              {{"n_sparse", n_sparse}, {"n_dense", kHeads - kSparse}, {"sparsity", static_cast<double>(T) / kTaken}})};
}

double seconds_of(Contender& c, const Tensor& x_ND, const Tensor& grad_ND, int64_t T, bool is_cpu_time) {
  const auto clock = [&] {
    return is_cpu_time ? static_cast<double>(std::clock()) / CLOCKS_PER_SEC
                       : std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const layer::AttentionContext here{.B = 1, .T = T, .rotation = kernels::rotation(0, T, kD / kHeads, 1e4, at::kFloat)};
  const route::Context routing{.phase = route::Phase::train};
  CountingAllocator::start();
  const auto before = CountingAllocator::held();
  const auto begin = clock();
  {
    const auto y_ND = c.attention->forward(x_ND, routing, here).y_ND;
    auto inputs = c.weights;
    inputs.push_back(x_ND);
    torch::autograd::grad({y_ND}, inputs, {grad_ND});
  }
  const auto seconds = clock() - begin;
  c.bytes = static_cast<double>(CountingAllocator::peak() - before);
  return seconds;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  static CountingAllocator allocator;
  c10::SetCPUAllocator(&allocator, 1);
  const int turns = argc > 1 ? std::atoi(argv[1]) : 7;
  if (argc > 2) at::set_num_threads(std::atoi(argv[2]));
  const bool is_cpu_time = argc > 3 && std::string(argv[3]) == "cpu";
  std::printf("%d threads, %d turns, float, %s time; forward and backward\n", at::get_num_threads(), turns,
              is_cpu_time ? "processor" : "wall");
  std::printf("%6s  %-28s %9s %9s %11s %11s %9s %12s\n", "T", "attention", "heads", "ms", "ms / full", "peak MiB",
              "MFLOP/tok", "cache B/tok");
  for (const int64_t T : {256, 512, 1024, 2048, 4096}) {
    std::vector<Contender> all;
    all.push_back(made("full", {.name = "full"}));
    all.push_back(made("mosa, as many heads", mosa(kSparse, T)));
    const auto none = made(
        "", {.name = "mosa",
             .fields = table(
                 {{"n_sparse", 1}, {"n_dense", kHeads - kSparse}, {"sparsity", static_cast<double>(T) / kTaken}})});
    const auto full = all[0].attention->facts(T).flops_per_token, few = all[1].attention->facts(T).flops_per_token;
    const auto one = (few - none.attention->facts(T).flops_per_token) / (kSparse - 1);
    const auto equal = kSparse + static_cast<int64_t>((full - few) / one);
    all.push_back(made("mosa, equal work", mosa(equal, T)));
    const auto x_ND = Random(2).normal({T, kD}, 1, at::kFloat).requires_grad_(true);
    const auto grad_ND = Random(3).normal({T, kD}, 1, at::kFloat);
    for (int turn = -1; turn < turns; ++turn)
      for (auto& c : all) {
        const auto seconds = seconds_of(c, x_ND, grad_ND, T, is_cpu_time);
        if (turn >= 0) c.seconds.push_back(seconds);
      }
    for (const auto& c : all) {
      const auto f = c.attention->facts(T);
      const auto heads =
          c.name == "full" ? kHeads : kHeads - kSparse + (c.name == "mosa, equal work" ? equal : kSparse);
      std::printf("%6ld  %-28s %9ld %9.2f %11.2f %11.2f %9.2f %12.0f\n", T, c.name.c_str(), heads,
                  1e3 * median(c.seconds), median(c.seconds) / median(all[0].seconds), c.bytes / 1048576,
                  f.flops_per_token / 1e6, f.cache_bytes_per_token);
    }
    std::fflush(stdout);
  }
}
