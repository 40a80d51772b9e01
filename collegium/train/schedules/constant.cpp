// Warm-up, then constant.
#include "collegium/train/optimizer.h"

namespace collegium::train {
namespace {

class ConstantSchedule final : public Schedule, public Makes<ConstantSchedule, Schedule> {
 public:
  using Interface = Schedule;
  struct Config {
    int64_t warmup = 0;
    void visit(Fields& field) {
      field("warmup", warmup, {.help = "steps of linear warm-up", .unit = "steps", .min = 0});
    }
  };
  ConstantSchedule(const Config& config, const Inputs&) : warmup_(config.warmup) {}
  double factor(int64_t step) const override { return warmup_factor(step, warmup_); }

 private:
  int64_t warmup_;
};

}  // namespace

extern constinit const Entry<Schedule> schedule_constant =
    entry<ConstantSchedule>({.name = "constant",
                             .source = "common practice",
                             .taxonomy = "training/schedule",
                             .summary = "warm-up, then constant",
                             .equation = "f(t) = min(1, (t + 1) / warmup)"});

}  // namespace collegium::train
