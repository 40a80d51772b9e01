// Warm-up, then half a cosine down to a floor. Loshchilov 2017, eq. 5 without restarts.
#include <cmath>

#include "collegium/train/optimizer.h"

namespace collegium::train {
namespace {

class CosineSchedule final : public Schedule, public Makes<CosineSchedule, Schedule> {
 public:
  using Interface = Schedule;
  struct Config {
    int64_t warmup = 50;
    double floor = 0.1;
    void visit(Fields& field) {
      field("warmup", warmup, {.help = "steps of linear warm-up", .unit = "steps", .min = 0});
      field("floor", floor, {.help = "share of the learning rate left at the end", .min = 0, .max = 1});
    }
  };
  CosineSchedule(const Config& config, const Inputs& in) : config_(config), steps_(in.steps) {}
  double factor(int64_t step) const override {
    if (step < config_.warmup) return warmup_factor(step, config_.warmup);
    const auto length = static_cast<double>(std::max<int64_t>(1, steps_ - config_.warmup));
    const auto progress = std::min(1.0, static_cast<double>(step - config_.warmup) / length);
    return config_.floor + (1 - config_.floor) * 0.5 * (1 + std::cos(M_PI * progress));
  }

 private:
  Config config_;
  int64_t steps_;
};

}  // namespace

extern constinit const Entry<Schedule> schedule_cosine = entry<CosineSchedule>(
    {.name = "cosine",
     .source = "Loshchilov 2017 (SGDR), eq. 5, without restarts",
     .taxonomy = "training/schedule",
     .summary = "warm-up, then half a cosine down to a floor",
     .equation = "f(t) = (t + 1) / w for t < w, else c + (1 - c) (1 + cos(π (t - w) / (n - w))) / 2\n"
                 "w = warmup, c = floor, n = steps of the run"});

}  // namespace collegium::train
