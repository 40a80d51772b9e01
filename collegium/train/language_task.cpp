#include "collegium/train/language_task.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>

#include "collegium/train/consistency.h"

namespace collegium::train {
namespace {

struct MovedBatch {
  Tensor input_BT, target_N, mask_BT, counts_N;
};

MovedBatch moved(const data::Batch& batch, at::Device device) {
  return {batch.input_BT.to(device), batch.target_BT.reshape({-1}).to(device), batch.mask_BT.to(device),
          batch.counts_BT.reshape({-1}).to(device)};
}

// Over the targets that count. Where all do, no copy.
Tensor counted_rows(const Tensor& all_N, const Tensor& counts_N, int64_t n_counting) {
  if (n_counting == 0) return all_N.slice(0, 0, 1) * 0;  // nothing to learn from, and no gradient
  return n_counting == counts_N.size(0) ? all_N : all_N.index_select(0, counts_N.nonzero().flatten());
}

PassSums sums_of(const data::Batch& batch, double nats) {
  return {.nats = nats,
          .n_targets = batch.n_targets,
          .n_tokens = batch.n_real,
          .counts = {{"bytes", static_cast<double>(batch.bytes)}}};
}

}  // namespace

double bits_per_byte(const Meter& meter) {
  const auto bytes = meter.count("bytes");
  return bytes > 0 ? meter.nats() / M_LN2 / bytes : 0;
}

LanguageTask::LanguageTask(const TrainConfig& config, model::LanguageModel& model, const data::BatchStream& train,
                           const data::EvalStream& held_out, uint64_t seed, at::Device device)
    : compute_(compute_type(config.precision)),
      consistency_(config.consistency),
      noise_(config.noise),
      routing_noise_(config.routing_noise),
      measures_agreement_(config.agreement),
      vocabulary_(model.facts(config.context).vocabulary),
      model_(model),
      train_(train),
      held_out_(held_out),
      random_(Random(seed).at("noise")),
      device_(device),
      rare_(train.tokens()),
      classes_(document_classes(held_out.tokens())) {}

Pass LanguageTask::pass(int64_t step, int64_t micro) {
  const auto batch = train_.batch(step, micro);
  const auto at_device = moved(batch, device_);
  const model::ModelContext context{.phase = route::Phase::train,
                                    .random = random_.at(static_cast<uint64_t>(step)).at(static_cast<uint64_t>(micro)),
                                    .compute = compute_};
  Pass out;
  out.output = model_.forward(at_device.input_BT, context);
  const auto logit_NV = model_.logits(out.output.hidden_ND);
  out.loss =
      counted_rows(model::token_losses(logit_NV, at_device.target_N), at_device.counts_N, batch.n_targets).mean();
  if (consistency_ > 0)
    out.loss = (out.loss + second_pass(at_device.input_BT, at_device.target_N, at_device.counts_N, context, logit_NV,
                                       out.output)) /
               2;
  out.sums = sums_of(batch, out.loss.item<double>() * static_cast<double>(batch.n_targets));
  return out;
}

Tensor LanguageTask::second_pass(const Tensor& input_BT, const Tensor& target_N, const Tensor& counts_N,
                                 const model::ModelContext& context, const Tensor& first_NV, model::ModelOutput& out) {
  auto other = context;
  other.random = context.random.at("second pass");
  const auto second = model_.forward(input_BT, other);
  const auto second_NV = model_.logits(second.hidden_ND);
  for (auto& term : out.losses) term.value = term.value / 2;
  for (const auto& term : second.losses) out.losses.push_back({term.name, term.value / 2, term.raw});
  const auto n_counting = counts_N.sum().item<int64_t>();
  const auto divergence =
      consistency_loss(counted_rows(first_NV, counts_N, n_counting), counted_rows(second_NV, counts_N, n_counting));
  out.losses.push_back({"model: consistency", divergence * consistency_, divergence.item<double>()});
  return counted_rows(model::token_losses(second_NV, target_N), counts_N, n_counting).mean();
}

Evaluation LanguageTask::evaluate(const IsInterrupted& is_interrupted, double noise, bool with_second_pass,
                                  double routing_noise) {
  const at::NoGradGuard no_grad;
  Evaluation out;
  RareMeter rare;
  ClassMeter classes(classes_.n_classes);
  Agreement agreement;
  int64_t n_right = 0;
  for (int64_t i = 0; i < held_out_.n_batches(); ++i) {
    if (is_interrupted && is_interrupted()) break;
    const auto batch = held_out_.batch(i);
    auto at_device = moved(batch, device_);
    if (noise > 0) {
      const auto random = Random(0).at("token noise").at(static_cast<uint64_t>(i));
      const auto real = at::TensorOptions().dtype(at::kDouble);
      const auto sizes = batch.input_BT.sizes();
      const auto other_BT =
          (random.at("token").uniform(sizes, 0, 1, real) * static_cast<double>(vocabulary_)).floor().to(at::kLong);
      const auto is_replaced_BT = random.at("place").uniform(sizes, 0, 1, real).lt(noise).to(device_);
      at_device.input_BT = at::where(is_replaced_BT, other_BT.to(device_), at_device.input_BT);
    }
    model::ModelContext context{.phase = route::Phase::evaluate,
                                .mask_BT = at_device.mask_BT,
                                .random = random_.at("evaluate").at(static_cast<uint64_t>(i)),
                                .compute = compute_,
                                .record = true,
                                .routing_noise = routing_noise};
    const auto result = model_.forward(at_device.input_BT, context);
    const auto logit_NV = model_.logits(result.hidden_ND);
    const auto loss_N = model::token_losses(logit_NV, at_device.target_N);
    const auto nats = (loss_N.to(at::kDouble) * at_device.counts_N).sum().item<double>();
    out.meter.add(sums_of(batch, nats), result);
    n_right += logit_NV.argmax(1).eq(at_device.target_N).logical_and(at_device.counts_N).sum().item<int64_t>();
    rare.add(rare_, loss_N, at_device.target_N, at_device.counts_N);
    if (with_second_pass) {
      context.random = context.random.at("second pass"), context.record = false;
      const auto again_NV = model_.logits(model_.forward(at_device.input_BT, context).hidden_ND);
      agreement.add(counted_rows(logit_NV, at_device.counts_N, batch.n_targets),
                    counted_rows(again_NV, at_device.counts_N, batch.n_targets));
    }
    out.routing.add(result, at_device.mask_BT.reshape({-1}));
    // A prompt need not be in its document's language.
    classes.add(result,
                classes_of(classes_, batch.document_BT.masked_fill(batch.counts_BT.logical_not(), -1).flatten()));
  }
  if (out.meter.n_targets() > 0)
    out.more["token_accuracy"] = static_cast<double>(n_right) / static_cast<double>(out.meter.n_targets());
  rare.report(out.more);
  classes.report(out.more);
  agreement.report(out.more);
  return out;
}

nlohmann::json LanguageTask::last_measures(const IsInterrupted& is_interrupted) {
  auto out = nlohmann::json::object();
  if (noise_ > 0) out["noisy_bpb"] = bits_per_byte(evaluate(is_interrupted, noise_).meter);
  if (routing_noise_ > 0) {
    const auto disturbed = bits_per_byte(evaluate(is_interrupted, 0, false, routing_noise_).meter);
    out["routing_noise_bpb"] = disturbed;
    out["routing_noise_rise"] = disturbed - bits_per_byte(evaluate(is_interrupted).meter);
  }
  if (measures_agreement_) {
    const auto evaluation = evaluate(is_interrupted, 0, /*with_second_pass=*/true);
    for (const auto* key : {"agreement", "divergence"})
      if (evaluation.more.contains(key)) out[key] = evaluation.more[key];
  }
  return out;
}

std::map<std::string, double> LanguageTask::scores(const Meter& meter) const {
  return {{"bpb", bits_per_byte(meter)}};
}

}  // namespace collegium::train
