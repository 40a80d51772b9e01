#include "collegium/recipe/in_turn.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "collegium/model/feed_forward_timer.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/step_timer.h"
#include "collegium/recipe/toml.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

// Something of a run that can be taken again and again.
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual double take() = 0;
};

class SpeedGauge final : public Gauge {
 public:
  SpeedGauge(const io::Path& folder, const RunSetting& setting) : timer_(folder, setting) {}
  double take() override { return static_cast<double>(timer_.tokens_per_step()) / timer_.step(); }

 private:
  StepTimer timer_;
};

class LatencyGauge final : public Gauge {
 public:
  LatencyGauge(const io::Path& folder, const RunSetting& setting) : setting_(setting) {
    auto run = open_run(folder, setting.device);
    config_ = run.config, model_ = std::move(run.model);
    data_ = task_of(config_)->prepare(config_, setting);
  }
  double take() override {
    const at::NoGradGuard no_grad;
    const model::FeedForwardTimer timer(setting_.clock, setting_.device);
    const auto n_tokens = data_->read_held_out(*model_, setting_.device);
    ensure(timer.passes() > 0, "a model names its feed-forward places when they work");
    return 1e6 * timer.seconds() / static_cast<double>(timer.passes() * n_tokens);
  }

 private:
  const RunSetting& setting_;
  RunConfig config_;  // outlives the workload, which reads it
  std::unique_ptr<model::Model> model_;
  std::unique_ptr<Workload> data_;
};

// Nothing is kept between takes, or it would count for the other side.
class MemoryGauge final : public Gauge {
 public:
  MemoryGauge(const io::Path& folder, const RunSetting& setting)
      : setting_(setting),
        name_(folder.filename().string()),
        config_(read_run_config(read_toml(folder / "config.toml"))) {}
  double take() override {
    const auto memory = memory_of_steps(config_, setting_);
    if (!memory) fail(ErrorKind::data, name_, ": training_memory: this system does not tell how much memory is used");
    return memory->most - memory->before;
  }

 private:
  const RunSetting& setting_;
  std::string name_;
  RunConfig config_;
};

template <class T>
std::unique_ptr<Gauge> make_gauge(const io::Path& folder, const RunSetting& setting) {
  return std::make_unique<T>(folder, setting);
}

struct TurnKind {
  std::string_view measure;
  std::unique_ptr<Gauge> (*gauge)(const io::Path&, const RunSetting&);
  int rounds;
};

constexpr TurnKind kTurnKinds[] = {{"tokens_per_second", make_gauge<SpeedGauge>, 9},
                                   {"layer_latency", make_gauge<LatencyGauge>, 25},
                                   {"training_memory", make_gauge<MemoryGauge>, 5}};

const TurnKind* turn_kind(std::string_view measure) {
  const auto* found = std::ranges::find(kTurnKinds, measure, &TurnKind::measure);
  return found == std::end(kTurnKinds) ? nullptr : found;
}

}  // namespace

bool is_measured_in_turn(std::string_view measure) {
  return turn_kind(measure) != nullptr;
}

InTurn measure_in_turn(std::string_view measure, const std::vector<io::Path>& ours,
                       const std::vector<io::Path>& baseline, const RunSetting& setting) {
  const auto* kind = turn_kind(measure);
  ensure(kind && (baseline.empty() || baseline.size() == ours.size()), "a measure in turn of two sides");
  InTurn out;
  for (size_t i = 0; i < ours.size(); ++i) {
    if (setting.progress)
      setting.progress->note(text(measure, ": both sides in turn, seed ", i + 1, " of ", ours.size()));
    std::vector<std::unique_ptr<Gauge>> sides;
    sides.push_back(kind->gauge(ours[i], setting));
    if (!baseline.empty()) sides.push_back(kind->gauge(baseline[i], setting));
    for (auto& side : sides) side->take();  // what the first time costs belongs to neither
    std::vector<std::vector<double>> taken(sides.size());
    for (int round = 0; round < kind->rounds; ++round)
      for (size_t k = 0; k < sides.size(); ++k) {
        if (setting.is_interrupted && setting.is_interrupted())
          throw Error(ErrorKind::interrupted, "evidence: interrupted; what is finished is used again next time");
        const auto side = round % 2 == 0 ? k : sides.size() - 1 - k;
        taken[side].push_back(sides[side]->take());
      }
    out.ours.push_back(median_of(taken[0]));
    if (!baseline.empty()) out.baseline.push_back(median_of(taken[1]));
  }
  return out;
}

}  // namespace collegium
