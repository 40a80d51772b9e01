#include "collegium/recipe/plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "collegium/base/bytes.h"
#include "collegium/io/env.h"
#include "collegium/kernels/cuda_driver.h"
#include "collegium/recipe/reuse.h"
#include "collegium/recipe/starting_point.h"
#include "collegium/recipe/step_timer.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

// Speed of real training steps on random data; a few steps, the first one not counted.
double measured_speed(const RunConfig& config, const RunSetting& setting, double seconds) {
  StepTimer timer(config, setting);
  timer.step();
  double busy = 0;
  int64_t steps = 0;
  while (steps < 1 || busy < seconds) {
    busy += timer.step();
    ++steps;
    if (setting.is_interrupted && setting.is_interrupted()) break;
  }
  return static_cast<double>(steps * timer.tokens_per_step()) / busy;
}

// The larger of the batches that are tried where there may be too little memory for the whole.
int64_t tried_batch(int64_t batch) {
  return batch < 4 ? batch : 2 * (batch / 4);
}

int64_t tokens_of(const RunConfig& config) {
  const auto& t = config.train;
  return t.steps * t.batch_size * t.accumulation * task_of(config)->sequence_length(config);
}

// Of the sources that are still to be trained.
int64_t tokens_before(const RunConfig& config, const RunSetting& setting) {
  if (!starts_from_recipe(config.train)) return 0;
  auto source = source_recipe(config).run;
  const auto before = tokens_before(source, setting);
  // Whose own source is not trained yet cannot be there.
  if (before > 0) return before + tokens_of(source);
  if (!source.train.init_from.empty())
    source.train.init_weights = find_starting_point(source, setting, Reuse::this_code).weights;
  return finished_run(source, setting, Reuse::this_code) ? 0 : tokens_of(source);
}

std::optional<double> peak_of(RunConfig config, int64_t sequences, const RunSetting& setting) {
  config.train.batch_size = sequences;
  const auto memory = memory_of_steps(std::move(config), setting);
  return memory ? std::optional(memory->most) : std::nullopt;
}

struct Line {
  double at_whole = 0;  ///< bytes with the whole batch
  double slope = 0;     ///< bytes a sequence
};

// Memory grows by about the same amount with each sequence, so two smaller batches tell what the whole one takes.
std::optional<Line> line_through(const RunConfig& config, int64_t few, int64_t more, const RunSetting& setting) {
  const auto low = peak_of(config, few, setting), high = peak_of(config, more, setting);
  if (!low || !high) return {};
  const auto slope = std::max(0.0, *high - *low) / static_cast<double>(more - few);
  return Line{*high + static_cast<double>(config.train.batch_size - more) * slope, slope};
}

// Bytes that the whole batch takes, without trying it where it might be `is_beyond` what there is.
std::optional<double> probed_memory(const RunConfig& config, const RunSetting& setting,
                                    const std::function<bool(double)>& is_beyond) {
  const auto batch = config.train.batch_size, more = tried_batch(batch);
  if (more == batch) return peak_of(config, batch, setting);
  // What a process holds depends on what it held before: glibc asks the system for each large block, and gives it back
  // at once, from a size on that grows with the blocks that were freed, up to 32 MiB; below, holes stay in the heap. So
  // steps with half of the batch leave another heap than training begins with, and the whole batch is tried right after
  // the smallest ones where it fits even if each sequence takes twice of what it does there.
  const auto small = line_through(config, 1, 2, setting);
  if (!small) return {};
  if (!is_beyond(small->at_whole + static_cast<double>(batch) * small->slope)) return peak_of(config, batch, setting);
  const auto line = line_through(config, more / 2, more, setting);
  return line ? std::optional(line->at_whole) : std::nullopt;
}

}  // namespace

std::optional<double> memory_of(at::Device device) {
  if (device.is_cpu()) return static_cast<double>(io::available_memory_bytes());
  const auto bytes =
      device.is_cuda() ? kernels::cuda_memory_bytes(kernels::cuda_index(device)) : std::optional<int64_t>();
  return bytes ? std::optional(static_cast<double>(*bytes)) : std::nullopt;
}

Plan make_plan(const RunConfig& config, const RunSetting& setting, bool measure, double measure_seconds) {
  return make_plan_within(memory_of(setting.device), config, setting, measure, measure_seconds);
}

Plan make_plan_within(std::optional<double> memory, const RunConfig& config, const RunSetting& setting, bool measure,
                      double measure_seconds) {
  Plan plan;
  const auto& t = config.train;
  const auto task = task_of(config);
  const auto length = task->sequence_length(config);
  const auto data = task->imagine(config);
  plan.facts = data->build_model(at::kMeta)->facts(length);
  if (!t.init_from.empty()) {
    plan.start = plan_start(config, setting).lines();
    if (const auto tokens = tokens_before(config, setting); tokens > 0) plan.source_tokens = tokens;
  }
  const auto& f = plan.facts;
  plan.train_flops_per_token = 3 * f.flops_per_token;
  const auto per_step = t.batch_size * t.accumulation * length;
  require(t.steps <= std::numeric_limits<int64_t>::max() / std::max<int64_t>(per_step, 1), "train.steps: ", t.steps,
          " steps of ", per_step, " tokens are more than can be counted");
  plan.tokens = t.steps * per_step;
  // float32 weights, gradients and two moments; Muon keeps one for matrices, so this is an upper bound.
  constexpr double kStateBytes = 16, kSavedBytes = 12;
  const auto width = t.precision == train::Precision::bf16 ? 0.6 : 1.0;
  // What the process holds already is not on another device.
  const auto itself = setting.device.is_cpu() ? static_cast<double>(io::resident_memory_bytes()) : 0.0;
  const auto estimate = [&](int64_t sequences) {
    return kStateBytes * f.parameters_total +
           width * f.activation_bytes_per_token * static_cast<double>(sequences * length) + itself;
  };
  plan.memory_bytes = estimate(t.batch_size);
  plan.checkpoint_bytes = kSavedBytes * f.parameters_total;
  plan.disk_bytes = plan.checkpoint_bytes * static_cast<double>(t.keep + 1);
  plan.disk_available = static_cast<double>(io::free_disk_bytes(setting.runs_root));
  plan.memory_available = memory;
  // The formula alone refuses nothing that might fit; what is tried must surely fit.
  const auto is_beyond = [&](double bytes) { return memory && bytes >= *memory; };
  if ((measure || is_beyond(plan.memory_bytes)) && !is_beyond(1.5 * estimate(tried_batch(t.batch_size))))
    if (const auto probed = probed_memory(config, setting, is_beyond))
      plan.memory_bytes = *probed, plan.is_memory_probed = true;
  if (is_beyond(plan.memory_bytes))
    plan.refusals.push_back(text("needs about ", bytes_text(plan.memory_bytes), " of memory, ", bytes_text(*memory),
                                 setting.device.is_cpu() ? " are free" : text(" are on ", setting.device)));
  if (plan.disk_bytes > plan.disk_available)
    plan.refusals.push_back(text("checkpoints need ", bytes_text(plan.disk_bytes), " of disk below ",
                                 setting.runs_root.string(), ", ", bytes_text(plan.disk_available), " are free"));
  if (measure && plan.refusals.empty()) {
    plan.tokens_per_second = measured_speed(config, setting, measure_seconds);
    plan.seconds = static_cast<double>(plan.tokens) / *plan.tokens_per_second;
  }
  return plan;
}

void refuse_if_too_large(const Plan& plan) {
  if (plan.refusals.empty()) return;
  throw Error(ErrorKind::refused, text("this run does not fit here: ", join(plan.refusals, "; ")),
              "lower train.batch_size, train.context, model.d_model or the number of experts; `collegium plan` shows "
              "what each costs");
}

void require_buildable(const Recipe& recipe, const RunSetting& setting) {
  const auto build = [&](const RunConfig& run) {
    task_of(run)->imagine(run)->build_model(at::kMeta);
    if (!run.train.init_from.empty()) plan_start(run, setting);
  };
  in_recipe(recipe.path, [&] { build(recipe.run); });
  if (recipe.has_baseline)
    in_recipe(text(recipe.path, ": baseline ", recipe.baseline_name), [&] { build(recipe.baseline); });
}

}  // namespace collegium
