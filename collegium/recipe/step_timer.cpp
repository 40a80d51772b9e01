#include "collegium/recipe/step_timer.h"

#include "collegium/io/env.h"
#include "collegium/kernels/block_pool.h"
#include "collegium/kernels/cuda_memory.h"
#include "collegium/recipe/workload.h"

namespace collegium {

struct StepTimer::State {
  RunConfig config;  // outlives the workload, which reads it
  std::unique_ptr<Workload> data;
  std::unique_ptr<model::Model> model;
  std::unique_ptr<train::Task> task;
  std::unique_ptr<train::Trainer> trainer;
  train::Meter meter;
  Clock clock;

  void begin(const RunSetting& setting) {
    task = data->learn(*model, setting.device);
    trainer = std::make_unique<train::Trainer>(config.train, *task);
    clock = setting.clock;
  }
};

StepTimer::StepTimer(const RunConfig& config, const RunSetting& setting) : state_(std::make_unique<State>()) {
  state_->config = config;
  state_->data = task_of(config)->imagine(state_->config);
  state_->model = state_->data->build_model(setting.device);
  state_->begin(setting);
}

StepTimer::StepTimer(const io::Path& folder, const RunSetting& setting) : state_(std::make_unique<State>()) {
  auto run = open_run(folder, setting.device);
  state_->config = run.config;
  state_->data = task_of(run.config)->prepare(state_->config, setting);
  state_->model = std::move(run.model);
  state_->begin(setting);
}

StepTimer::~StepTimer() = default;

double StepTimer::step() {
  const auto start = state_->clock();
  state_->trainer->train_step(state_->meter);
  return state_->clock() - start;
}

int64_t StepTimer::tokens_per_step() const {
  const auto& t = state_->config.train;
  return t.batch_size * t.accumulation * task_of(state_->config)->sequence_length(state_->config);
}

std::optional<StepMemory> memory_of_steps(RunConfig config, const RunSetting& setting) {
  config.train.accumulation = 1;
  const auto take_two_steps = [&] {
    StepTimer timer(config, setting);
    for (int i = 0; i < 2; ++i) timer.step();
  };
  if (setting.device.is_cuda()) {
    const kernels::CudaPeak peak(setting.device);
    const auto others = peak.others();
    if (!others || !peak.bytes()) return {};
    take_two_steps();
    return StepMemory{static_cast<double>(*others), static_cast<double>(*others + peak.bytes().value_or(0))};
  }
  // What was freed before must not hide what the steps take.
  kernels::block_pool().release();
  io::release_free_memory();
  const auto before = static_cast<double>(io::resident_memory_bytes());
  const io::PeakMemory peak;
  if (!peak.bytes()) return {};
  take_two_steps();
  return StepMemory{before, static_cast<double>(peak.bytes().value_or(0))};
}

}  // namespace collegium
