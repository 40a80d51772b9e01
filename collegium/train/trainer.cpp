#include "collegium/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <array>
#include <cmath>
#include <iomanip>
#include <set>
#include <sstream>

namespace collegium::train {
namespace {

std::string short_number(double value) {
  std::ostringstream out;
  if (value >= 1e6)
    out << std::fixed << std::setprecision(2) << value / 1e6 << "M";
  else if (value >= 1e4)
    out << std::fixed << std::setprecision(1) << value / 1e3 << "k";
  else
    out << std::fixed << std::setprecision(value < 100 ? 3 : 0) << value;
  return out.str();
}

// The first tensor that holds a number which is not finite, or "".
std::string broken_tensor(const std::vector<ParameterRef>& items) {
  for (const auto& item : items)
    if (item.tensor->is_floating_point() && !at::isfinite(item.tensor->detach()).all().item<bool>()) return item.name;
  return "";
}

}  // namespace

std::span<const std::string_view> enum_names(Precision) {
  static constexpr std::array<std::string_view, 2> names = {"fp32", "bf16"};
  return names;
}

at::ScalarType compute_type(Precision precision) {
  return precision == Precision::bf16 ? at::kBFloat16 : at::kFloat;
}

void TrainConfig::visit(Fields& field) {
  field("steps", steps, {.help = "optimiser steps", .unit = "steps", .min = 1});
  field("batch_size", batch_size, {.help = "sequences (or images) per forward pass", .min = 1});
  field("context", context, {.help = "tokens per sequence", .unit = "tokens", .min = 1});
  field("accumulation", accumulation, {.help = "forward passes per optimiser step", .min = 1});
  field("optimizer", optimizer, {.help = "how gradients become steps", .catalogue = "optimizers"});
  field("schedule", schedule, {.help = "learning rate over the run", .catalogue = "schedules"});
  field("clip", clip, {.help = "gradients are scaled down to this norm; 0 = never", .min = 0});
  field("consistency", consistency,
        {.help = "weight of the divergence between two passes with different routing noise (THOR); 0 = one pass",
         .min = 0});
  field("precision", precision, {.help = "arithmetic of the model; routers, norms and losses stay in float32"});
  field("eval_every", eval_every,
        {.help = "steps between evaluations; 0 = only at the end", .unit = "steps", .min = 0});
  field("noise", noise,
        {.help = "share of input tokens replaced at random in a last evaluation, for robustness; 0 = none",
         .min = 0,
         .max = 1});
  field(
      "routing_noise", routing_noise,
      {.help = "normal noise on the routers' logits in a last evaluation, for robustness, times the standard deviation "
               "of a token's logits; 0 = none",
       .min = 0});
  field("agreement", agreement,
        {.help = "the last evaluation runs twice with different routing noise and measures how far both agree"});
  field("eval_windows", eval_windows, {.help = "held-out sequences (or images) per evaluation; 0 = all", .min = 0});
  field("log_every", log_every, {.help = "steps between rows of metrics", .unit = "steps", .min = 1});
  field("save_every", save_every,
        {.help = "steps between checkpoints; 0 = only at the end", .unit = "steps", .min = 0});
  field("keep", keep, {.help = "checkpoints kept", .min = 2});
}

Trainer::Trainer(TrainConfig config, Task& task)
    : config_(std::move(config)), task_(task), parameters_(parameters_of(task.model())) {
  std::vector<ParameterRef> trained;
  for (const auto& p : parameters_)
    if (p.trained()) trained.push_back(p);
  optimizer_ = find(optimizers(), config_.optimizer, "optimizer").make(config_.optimizer, {trained});
  schedule_ = find(schedules(), config_.schedule, "schedule").make(config_.schedule, {config_.steps});
}

bool Trainer::train_step(Meter& meter) {
  for (const auto& p : parameters_) p.tensor->mutable_grad().reset();
  Meter fresh;
  const auto share = 1.0 / static_cast<double>(config_.accumulation);
  for (int64_t micro = 0; micro < config_.accumulation; ++micro) {
    const auto pass = task_.pass(step_, micro);
    if (!std::isfinite(pass.sums.nats)) return false;
    fresh.add(pass.sums, pass.output);
    auto loss = pass.loss;
    for (const auto& term : pass.output.losses) loss = loss + term.value.to(loss);
    (loss * share).backward();
  }
  std::vector<Tensor> gradients;
  for (const auto& p : parameters_)
    if (p.trained() && p.tensor->grad().defined()) gradients.push_back(p.tensor->grad());
  const at::NoGradGuard no_grad;
  gradient_norm_ = at::stack(at::_foreach_norm(gradients)).norm().item<double>();
  if (!std::isfinite(gradient_norm_)) return false;
  if (config_.clip > 0 && gradient_norm_ > config_.clip) at::_foreach_mul_(gradients, config_.clip / gradient_norm_);
  optimizer_->step(schedule_->factor(step_));
  task_.model().step();
  ++step_;
  tokens_ += fresh.n_tokens();
  meter.merge(fresh);
  return true;
}

nlohmann::json Trainer::row(std::string_view kind, const Meter& meter) const {
  nlohmann::json out = {{"kind", kind}, {"step", step_}, {"tokens", tokens_}};
  if (kind == "train")
    out["lr"] = optimizer_->learning_rate() * schedule_->factor(step_ - 1), out["grad_norm"] = gradient_norm_;
  out.update(meter.row());
  for (const auto& [key, value] : task_.scores(meter)) out[key] = value;
  return out;
}

io::CheckpointData Trainer::snapshot(const TrainSinks& sinks) const {
  io::CheckpointData out;
  out.step = step_;
  out.weights = save_tensors(parameters_);
  out.state = save_tensors(parameters_of(*optimizer_));
  if (first_expert_LN_.defined()) out.state.push_back({"evaluation.first_expert", first_expert_LN_});
  out.meta = sinks.meta.is_null() ? nlohmann::json::object() : sinks.meta;
  const auto cursor = task_.cursor(step_);
  out.meta["loop"] = {{"step", step_},
                      {"tokens", tokens_},
                      {"gradient_norm", gradient_norm_},
                      {"cursor", {{"epoch", cursor.epoch}, {"index", cursor.index}}},
                      {"meter", meter_.state()},
                      {"evaluation_due", evaluation_due_},
                      {"metrics_bytes", sinks.metrics ? sinks.metrics->size() : 0}};
  out.meta["loop"]["train"] = train_scores_, out.meta["loop"]["valid"] = valid_scores_;
  return out;
}

// After a stop at numbers that are not finite: the step of the newest sound checkpoint from before them.
std::optional<int64_t> Trainer::keep_finite_checkpoint(const TrainSinks& sinks) const {
  if (sinks.checkpoints.empty()) return {};
  io::remove_checkpoints_after(*sinks.fs, sinks.checkpoints, step_ - 1);
  for (const auto& checkpoint : io::list_checkpoints(*sinks.fs, sinks.checkpoints))
    if (io::verify_checkpoint(*sinks.fs, checkpoint.folder).empty()) return checkpoint.step;
  return {};
}

void Trainer::restore(const io::CheckpointData& data, io::JsonLines* metrics) {
  load_tensors(parameters_, data.weights, "checkpoint weights");
  auto state = data.state;
  const auto seen =
      std::find_if(state.begin(), state.end(), [](const auto& t) { return t.name == "evaluation.first_expert"; });
  first_expert_LN_.reset();
  if (seen != state.end()) first_expert_LN_ = seen->tensor, state.erase(seen);
  load_tensors(parameters_of(*optimizer_), state, "checkpoint optimiser state");
  const auto& loop = data.meta.at("loop");
  step_ = loop.at("step"), tokens_ = loop.at("tokens"), gradient_norm_ = loop.at("gradient_norm");
  meter_ = Meter::from_state(loop.at("meter"));
  evaluation_due_ = loop.at("evaluation_due");
  train_scores_ = loop.at("train").get<std::map<std::string, double>>();
  valid_scores_ = loop.at("valid").get<std::map<std::string, double>>();
  if (metrics) metrics->truncate_to(loop.at("metrics_bytes").get<uint64_t>());
}

namespace {

// What was timed: of a resumed run, what the sessions before recorded up to its checkpoint, too.
struct Timed {
  double seconds = 0;           // since the start
  double training_seconds = 0;  // of them in training steps, `tokens` of which were timed
  int64_t tokens = 0;
  double tokens_per_second() const { return training_seconds > 0 ? static_cast<double>(tokens) / training_seconds : 0; }
};

Timed timed_before(io::JsonLines* timing, int64_t step) {
  Timed out;
  if (!timing) return out;
  for (const auto& row :
       timing->keep_while([&](const auto& r) { return r.at("step").template get<int64_t>() <= step; }))
    if (row.contains("training_seconds"))
      out = {.seconds = row.at("seconds"),
             .training_seconds = row.at("training_seconds"),
             .tokens = row.at("timed_tokens")};
  return out;
}

}  // namespace

void Trainer::save(const TrainSinks& sinks) const {
  if (sinks.metrics) sinks.metrics->flush();
  io::save_checkpoint(*sinks.fs, sinks.checkpoints, snapshot(sinks), config_.keep);
}

TrainResult Trainer::run(const TrainSinks& sinks) {
  TrainResult result;
  const auto headline = task_.headline();
  const std::string key(headline.key);
  auto timed = timed_before(sinks.timing, step_);
  const auto started = sinks.clock() - timed.seconds;
  double since_row = 0;
  int64_t tokens_since_row = 0;
  const auto say = [&](const std::string& line) {
    if (sinks.progress) sinks.progress->note(line);
  };
  const auto save = [&] {
    if (sinks.checkpoints.empty()) return;
    const auto before = sinks.clock();
    this->save(sinks);
    if (sinks.timing) sinks.timing->append({{"step", step_}, {"save_seconds", sinks.clock() - before}});
  };
  const auto evaluate_now = [&] {
    const auto before = sinks.clock();
    const auto evaluation = task_.evaluate(sinks.is_interrupted);
    evaluation_due_ = sinks.is_interrupted && sinks.is_interrupted();
    if (evaluation_due_) return;  // a half evaluation is none
    auto valid = row("valid", evaluation.meter);
    evaluation.routing.report(valid, first_expert_LN_);
    valid.update(evaluation.more);
    if (step_ == config_.steps) {
      valid.update(task_.last_measures(sinks.is_interrupted));
      evaluation_due_ = sinks.is_interrupted && sinks.is_interrupted();
      if (evaluation_due_) return;
    }
    valid_scores_ = task_.scores(evaluation.meter);
    first_expert_LN_ = evaluation.routing.first_experts();
    if (sinks.metrics) sinks.metrics->append(valid);
    if (sinks.timing) sinks.timing->append({{"step", step_}, {"eval_seconds", sinks.clock() - before}});
    std::ostringstream line;
    line << "step " << step_ << ": held-out " << std::fixed << std::setprecision(4) << valid_scores_.at(key) << " "
         << headline.unit;
    say(line.str());
  };
  const auto stops_at_broken_weights = [&] {
    const auto name = broken_tensor(parameters_);
    if (name.empty()) return false;
    result.reason = StopReason::not_finite;
    result.problem = text("after step ", step_, " a number of '", name, "' is not finite");
    return true;
  };
  const auto every = [&](int64_t period) { return period > 0 && step_ % period == 0; };

  if (sinks.progress) sinks.progress->start(config_.steps, "steps", sinks.title, step_);
  if (evaluation_due_) evaluate_now();
  while (step_ < config_.steps) {
    const auto before = sinks.clock();
    const auto tokens_before = tokens_;
    if (!train_step(meter_)) {
      result.reason = StopReason::not_finite;
      result.problem = text("the ", std::isfinite(gradient_norm_) ? "loss" : "gradient", " of step ", step_ + 1,
                            " is not a finite number");
      break;
    }
    const auto seconds = sinks.clock() - before;
    timed.training_seconds += seconds, since_row += seconds;
    timed.tokens += tokens_ - tokens_before, tokens_since_row += tokens_ - tokens_before;

    if (sinks.progress)
      sinks.progress->update(step_,
                             {{"loss", short_number(meter_.loss())},
                              {key, short_number(task_.scores(meter_).at(key))},
                              {"held-out", valid_scores_.empty() ? "-" : short_number(valid_scores_.at(key))},
                              {"", text(short_number(timed.tokens_per_second()), " ", headline.speed)}},
                             meter_.mean_load());
    const bool is_last = step_ == config_.steps;
    if (every(config_.log_every) || is_last) {
      train_scores_ = task_.scores(meter_);
      if (sinks.metrics) sinks.metrics->append(row("train", meter_));
      if (sinks.timing)
        sinks.timing->append(
            {{"step", step_},
             {"seconds", sinks.clock() - started},
             {"training_seconds", timed.training_seconds},
             {"timed_tokens", timed.tokens},
             {"tokens_per_second", static_cast<double>(tokens_since_row) / std::max(since_row, 1e-9)}});
      meter_ = {}, since_row = 0, tokens_since_row = 0;
    }
    // An evaluation comes before the save of the same step, so that a resumed run does not repeat its row.
    if (every(config_.eval_every) || is_last) {
      if (stops_at_broken_weights()) break;
      evaluate_now();
    }
    if (sinks.is_interrupted && sinks.is_interrupted()) {
      if (stops_at_broken_weights()) break;
      say(text("stopping: saving step ", step_));
      save();
      if (!is_last) {
        result.reason = StopReason::interrupted;
        break;
      }
    } else if (every(config_.save_every) || is_last) {
      if (stops_at_broken_weights()) break;
      save();
    }
  }
  if (sinks.progress) sinks.progress->finish();
  if (result.reason == StopReason::not_finite) result.kept_step = keep_finite_checkpoint(sinks);
  result.step = step_, result.tokens = tokens_;
  result.tokens_per_second = timed.tokens_per_second();
  result.train = train_scores_, result.valid = valid_scores_, result.headline = headline;
  return result;
}

void load_tensors(const std::vector<ParameterRef>& items, const std::vector<io::NamedTensor>& from,
                  std::string_view what) {
  const at::NoGradGuard no_grad;
  std::set<std::string> used;
  for (const auto& item : items) {
    const auto found = std::find_if(from.begin(), from.end(), [&](const auto& t) { return t.name == item.name; });
    if (found == from.end()) fail(ErrorKind::data, what, ": tensor '", item.name, "' is missing");
    if (found->tensor.sizes() != item.tensor->sizes())
      fail(ErrorKind::data, what, ": tensor '", item.name, "' is ", found->tensor.sizes(), ", the model needs ",
           item.tensor->sizes());
    item.tensor->copy_(found->tensor);
    used.insert(item.name);
  }
  for (const auto& t : from)
    if (!used.count(t.name)) fail(ErrorKind::data, what, ": tensor '", t.name, "' has no place in this model");
}

std::vector<io::NamedTensor> save_tensors(const std::vector<ParameterRef>& items) {
  std::vector<io::NamedTensor> out;
  for (const auto& item : items) out.push_back({item.name, item.tensor->detach().cpu().contiguous()});
  return out;
}

}  // namespace collegium::train
