#include "collegium/train/optimizer.h"

namespace collegium::train {

extern const Entry<Optimizer> optimizer_adamw;
extern const Entry<Optimizer> optimizer_muon;

Entries<Optimizer> optimizers() {
  static constexpr const Entry<Optimizer>* kAll[] = {
      &optimizer_adamw,
      &optimizer_muon,
  };
  return kAll;
}

extern const Entry<Schedule> schedule_constant;
extern const Entry<Schedule> schedule_cosine;
extern const Entry<Schedule> schedule_wsd;

Entries<Schedule> schedules() {
  static constexpr const Entry<Schedule>* kAll[] = {
      &schedule_constant,
      &schedule_cosine,
      &schedule_wsd,
  };
  return kAll;
}

double warmup_factor(int64_t step, int64_t warmup) {
  return step < warmup ? static_cast<double>(step + 1) / static_cast<double>(warmup) : 1.0;
}

}  // namespace collegium::train
