#include "cli/bench/turns.h"

#include <algorithm>
#include <chrono>
#include <ctime>

namespace collegium::cli {
namespace {

double quantile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const auto above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

double bench_seconds(BenchClock clock) {
  if (clock == BenchClock::cpu) {
    std::timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Timed::median() const {
  return spread_of(seconds).middle;
}

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75)};
}

Spread ratio_of(const Timed& other, const Timed& ours) {
  std::vector<double> ratios;
  for (size_t i = 0; i < other.seconds.size() && i < ours.seconds.size(); ++i)
    ratios.push_back(other.seconds[i] / ours.seconds[i]);
  return spread_of(std::move(ratios));
}

std::vector<Timed> take_turns(const std::vector<Contender>& contenders, int64_t turns, BenchClock clock,
                              const std::function<bool()>& after_turn) {
  std::vector<Timed> out;
  for (const auto& contender : contenders) out.push_back({contender.name, {}});
  for (int64_t turn = -1; turn < turns; ++turn) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      const double begin = bench_seconds(clock);
      contenders[i].run();
      if (turn >= 0) out[i].seconds.push_back(bench_seconds(clock) - begin);
    }
    if (turn >= 0 && !after_turn()) break;
  }
  return out;
}

}  // namespace collegium::cli
