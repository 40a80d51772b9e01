#include "cli/bench/dense.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "collegium/base/random.h"
#include "collegium/kernels/isa.h"
#include "collegium/kernels/work.h"

namespace collegium::cli {
namespace {

template <class S>
const kernels::Loops<S>& loops_of(const kernels::Isa& isa) {
  if constexpr (std::is_same_v<S, float>) return isa.loops->of_float;
  if constexpr (std::is_same_v<S, double>) return isa.loops->of_double;
  if constexpr (std::is_same_v<S, kernels::Bf16>) return *isa.bf16;
}

// out = a b, blocks of rows on every thread.
template <class S>
void product(const kernels::Loops<S>& loop, const at::Tensor& a, const at::Tensor& b, const at::Tensor& out) {
  const int64_t n = a.size(0);
  std::vector<const S*> row(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) row[static_cast<size_t>(i)] = kernels::data<S>(a) + i * n;
  const int64_t blocks = (n + loop.rows_per_task - 1) / loop.rows_per_task;
  kernels::run_tasks(blocks, [&] {
    return [&, scratch = kernels::Scratch<kernels::Wide<S>>(loop.scratch(n))](int64_t i) {
      const int64_t from = n * i / blocks, to = n * (i + 1) / blocks;
      loop.times(row.data() + from, to - from, kernels::data<S>(b), n, n, n, kernels::mutable_data<S>(out) + from * n,
                 n, scratch.get());
    };
  });
}

}  // namespace

std::span<const int64_t> dense_sizes(bool quick) {
  static constexpr std::array<int64_t, 3> all = {512, 768, 1152};
  static constexpr std::array<int64_t, 1> small = {64};
  if (quick) return small;
  return all;
}

std::vector<DenseSpeed> dense_speeds(at::ScalarType type, std::span<const int64_t> sizes, int64_t turns,
                                     BenchClock clock, const std::function<bool()>& after_turn) {
  std::vector<DenseSpeed> out;
  for (const auto& isa : kernels::isas())
    if (isa.supported()) out.push_back({std::string(isa.name), &isa == &kernels::chosen_isa(), 0});
  out.push_back({"torch", true, 0});
  for (const int64_t n : sizes) {
    const Random random(3);
    const auto a = random.at("a").normal({n, n}, 1, type), b = random.at("b").normal({n, n}, 1, type),
               c = at::empty({n, n}, a.options());
    std::vector<Contender> contenders;
    for (const auto& isa : kernels::isas())
      if (isa.supported())
        contenders.push_back({std::string(isa.name), [&isa, &a, &b, &c] {
                                kernels::by_element(a.scalar_type(), [&]<class S>(std::type_identity<S>) {
                                  product<S>(loops_of<S>(isa), a, b, c);
                                });
                              }});
    auto torch_out = at::empty({n, n}, a.options());
    contenders.push_back({"torch", [&] { at::mm_out(torch_out, a, b); }});
    const auto timed = take_turns(contenders, turns, clock, after_turn);
    for (size_t i = 0; i < timed.size(); ++i) {
      const auto& seconds = timed[i].seconds;
      if (seconds.empty()) continue;
      const auto n3 = static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
      out[i].flops_per_second =
          std::max(out[i].flops_per_second, 2 * n3 / *std::min_element(seconds.begin(), seconds.end()));
    }
    if (std::any_of(timed.begin(), timed.end(),
                    [&](const Timed& t) { return static_cast<int64_t>(t.seconds.size()) < turns; }))
      break;
  }
  return out;
}

}  // namespace collegium::cli
