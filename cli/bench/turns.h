// Contenders that take turns in one process, so that a busy machine slows all of them alike.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace collegium::cli {

/// What a turn's seconds are read from: the clock on the wall, or the processor's time of this process, which other
/// programs' turns do not count towards.
enum class BenchClock { wall, cpu };
double bench_seconds(BenchClock clock);

struct Contender {
  std::string name;
  std::function<void()> run;
};

struct Timed {
  std::string name;
  std::vector<double> seconds;  ///< one a turn
  double median() const;
};

/// Median and quartiles.
struct Spread {
  double middle = 0, low = 0, high = 0;
};
Spread spread_of(std::vector<double> values);

/// Within each turn, the other's time over ours: above 1, ours is faster.
Spread ratio_of(const Timed& other, const Timed& ours);

/// One turn to warm up, then `turns`. After each, `after_turn` says whether to go on; what was measured until then is
/// returned.
std::vector<Timed> take_turns(const std::vector<Contender>& contenders, int64_t turns, BenchClock clock,
                              const std::function<bool()>& after_turn);

}  // namespace collegium::cli
