// Warm-up, stable, decay: constant until the last part of the run, then linear to a floor. Hu 2024 (MiniCPM),
// section 4.2, with the linear decay of Hagele 2024.
#include "collegium/train/optimizer.h"

namespace collegium::train {
namespace {

class WsdSchedule final : public Schedule, public Makes<WsdSchedule, Schedule> {
 public:
  using Interface = Schedule;
  struct Config {
    int64_t warmup = 50;
    double decay = 0.2;
    double floor = 0;
    void visit(Fields& field) {
      field("warmup", warmup, {.help = "steps of linear warm-up", .unit = "steps", .min = 0});
      field("decay", decay, {.help = "share of the run in which the rate falls", .min = 0, .max = 1});
      field("floor", floor, {.help = "share of the learning rate left at the end", .min = 0, .max = 1});
    }
  };
  WsdSchedule(const Config& config, const Inputs& in) : config_(config), steps_(static_cast<double>(in.steps)) {}
  double factor(int64_t step) const override {
    const auto left = steps_ - static_cast<double>(step), fall = config_.decay * steps_;
    const auto down = left < fall ? config_.floor + (1 - config_.floor) * left / fall : 1.0;
    return down * warmup_factor(step, config_.warmup);
  }

 private:
  Config config_;
  double steps_;
};

}  // namespace

extern constinit const Entry<Schedule> schedule_wsd =
    entry<WsdSchedule>({.name = "wsd",
                        .source = "Hu 2024 (MiniCPM), section 4.2; Hagele 2024 (linear decay)",
                        .taxonomy = "training/schedule",
                        .summary = "warm-up, constant, then a linear fall in the last part of the run",
                        .equation = "f(t) = min(1, (t + 1) / w) · (c + (1 - c) min(1, (n - t) / (decay · n)))\n"
                                    "w = warmup, c = floor, n = steps of the run"});

}  // namespace collegium::train
