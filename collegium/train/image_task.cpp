#include "collegium/train/image_task.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "collegium/train/class_meter.h"

namespace collegium::train {
namespace {

// Of all layers with experts together.
void count_deciding(PassSums& sums, const std::vector<route::Decision>& decisions, const Tensor& is_deciding_BP) {
  const auto is_deciding_N = is_deciding_BP.flatten();
  for (const auto& d : decisions) {
    if (d.n_kept() == 0) continue;
    const auto is_deciding_R = is_deciding_N.index_select(0, d.token_R());
    const auto gate_R = d.gate_R().detach().to(at::kDouble);
    const auto taken_N = at::zeros_like(is_deciding_N).index_fill_(0, d.token_R(), true);
    const auto found_BP = taken_N.logical_and(is_deciding_N).view(is_deciding_BP.sizes());
    sums.counts["kept"] += static_cast<double>(d.n_kept());
    sums.counts["kept_deciding"] += is_deciding_R.sum().item<double>();
    sums.counts["weight"] += gate_R.sum().item<double>();
    sums.counts["weight_deciding"] += (gate_R * is_deciding_R).sum().item<double>();
    sums.counts["images"] += static_cast<double>(is_deciding_BP.size(0));
    sums.counts["found"] += found_BP.any(1).sum().item<double>();
  }
}

struct NamedImages {
  Tensor loss;  // mean, with gradient where it is taken
  PassSums sums;
  model::ModelOutput output;
};

NamedImages name_images(model::ImageModel& model, const data::SceneBatch& batch, const model::ModelContext& context,
                        at::Device device) {
  NamedImages out;
  out.output = model.forward(batch.image_BCHW.to(device), context);
  auto logit_BK = model.logits(out.output.hidden_ND);
  if (logit_BK.scalar_type() != at::kDouble) logit_BK = logit_BK.to(at::kFloat);
  const auto label_B = batch.label_B.to(device);
  out.loss = at::cross_entropy_loss(logit_BK, label_B);
  const auto B = batch.label_B.size(0);
  out.sums = {.nats = out.loss.item<double>() * static_cast<double>(B),
              .n_targets = B,
              .n_tokens = B * model.patches_per_image(),
              .counts = {{"correct", logit_BK.argmax(1).eq(label_B).sum().item<double>()}}};
  count_deciding(out.sums, out.output.decisions, batch.is_deciding_BP.to(device));
  return out;
}

}  // namespace

ImageTask::ImageTask(const TrainConfig& config, model::ImageModel& model, const data::SceneSet& train,
                     const data::SceneSet& held_out, uint64_t seed, at::Device device)
    : batch_size_(config.batch_size),
      n_held_out_(config.eval_windows > 0 ? std::min(config.eval_windows, held_out.size()) : held_out.size()),
      compute_(compute_type(config.precision)),
      model_(model),
      train_(train),
      held_out_(held_out),
      order_(Random(seed).at("batches"), train.size(), config.batch_size, config.accumulation),
      random_(Random(seed).at("noise")),
      device_(device) {
  const auto P = train.parts().image_NP.size(1);
  require(model.patches_per_image() == P, "task: a scene shows ", P, " digits, but the model cuts it into ",
          model.patches_per_image(), " patches; which patch decides is then unknown");
}

Pass ImageTask::pass(int64_t step, int64_t micro) {
  std::vector<int64_t> scenes(static_cast<size_t>(batch_size_));
  for (int64_t row = 0; row < batch_size_; ++row) scenes[static_cast<size_t>(row)] = order_.item(step, micro, row);
  const model::ModelContext context{.phase = route::Phase::train,
                                    .random = random_.at(static_cast<uint64_t>(step)).at(static_cast<uint64_t>(micro)),
                                    .compute = compute_};
  auto done = name_images(model_, train_.batch(scenes), context, device_);
  return {std::move(done.loss), std::move(done.sums), std::move(done.output)};
}

std::vector<int64_t> ImageTask::held_out_scenes(int64_t index) const {
  std::vector<int64_t> out;
  for (auto i = index * batch_size_; i < std::min((index + 1) * batch_size_, n_held_out_); ++i) out.push_back(i);
  return out;
}

Evaluation ImageTask::evaluate(const IsInterrupted& is_interrupted) {
  const at::NoGradGuard no_grad;
  constexpr int64_t kDigits = 10;
  Evaluation out;
  ClassMeter classes(kDigits);
  for (int64_t i = 0; i * batch_size_ < n_held_out_; ++i) {
    if (is_interrupted && is_interrupted()) break;
    const model::ModelContext context{.phase = route::Phase::evaluate,
                                      .random = random_.at("evaluate").at(static_cast<uint64_t>(i)),
                                      .compute = compute_,
                                      .record = true};
    const auto batch = held_out_.batch(held_out_scenes(i));
    const auto done = name_images(model_, batch, context, device_);
    out.meter.add(done.sums, done.output);
    out.routing.add(done.output, Tensor());
    classes.add(done.output, batch.shown_BP.flatten());
  }
  classes.report(out.more);
  return out;
}

std::map<std::string, double> ImageTask::scores(const Meter& meter) const {
  const auto share = [&](const char* part, double whole) { return whole > 0 ? meter.count(part) / whole : 0; };
  std::map<std::string, double> out = {{"accuracy", share("correct", static_cast<double>(meter.n_targets()))}};
  if (meter.count("kept") > 0) {
    out["deciding_share"] = share("kept_deciding", meter.count("kept"));
    out["deciding_weight"] = share("weight_deciding", meter.count("weight"));
    out["found"] = share("found", meter.count("images"));
  }
  return out;
}

}  // namespace collegium::train
