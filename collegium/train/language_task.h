// Learning to predict the next token. Loss in nats a token, reported in bits per byte, which tokenizers cannot flatter.
//
// B sequences, T tokens each, N = B T, V vocabulary.
#pragma once
#include "collegium/data/batch.h"
#include "collegium/model/language_model.h"
#include "collegium/train/class_meter.h"
#include "collegium/train/rare_meter.h"
#include "collegium/train/task.h"
#include "collegium/train/trainer.h"

namespace collegium::train {

class LanguageTask final : public Task {
 public:
  /// Model and streams must outlive the task. Of `config`, what concerns passes: precision, context, consistency,
  /// noise. `seed` is for noise in routing; the streams have their own.
  LanguageTask(const TrainConfig& config, model::LanguageModel& model, const data::BatchStream& train,
               const data::EvalStream& held_out, uint64_t seed, at::Device device);

  model::Model& model() override { return model_; }
  Pass pass(int64_t step, int64_t micro) override;
  Evaluation evaluate(const IsInterrupted& is_interrupted = {}) override { return evaluate(is_interrupted, 0); }
  /// `noise`: share of the input tokens that are replaced by tokens drawn evenly from the vocabulary; the targets stay.
  /// `with_second_pass`: each batch runs again with other routing noise, to see how far both passes agree.
  /// `routing_noise`: of ModelContext.
  Evaluation evaluate(const IsInterrupted& is_interrupted, double noise, bool with_second_pass = false,
                      double routing_noise = 0);
  /// {"noisy_bpb"} where the configuration has noise, {"routing_noise_bpb", "routing_noise_rise"} where it has routing
  /// noise (the rise is over the same evaluation without), {"agreement", "divergence"} where it asks for them.
  nlohmann::json last_measures(const IsInterrupted& is_interrupted) override;
  std::map<std::string, double> scores(const Meter& meter) const override;
  Headline headline() const override { return {.key = "bpb", .unit = "bits per byte", .speed = "tok/s"}; }
  data::Cursor cursor(int64_t step) const override { return train_.cursor(step); }

 private:
  /// Runs the batch again with other noise: adds its losses and the divergence from the first pass to `out`, each pass
  /// counting half, and returns its mean token loss.
  Tensor second_pass(const Tensor& input_BT, const Tensor& target_N, const Tensor& counts_N,
                     const model::ModelContext& context, const Tensor& first_NV, model::ModelOutput& out);

  at::ScalarType compute_;
  double consistency_, noise_, routing_noise_;
  bool measures_agreement_;
  int64_t vocabulary_;
  model::LanguageModel& model_;
  const data::BatchStream& train_;
  const data::EvalStream& held_out_;
  Random random_;
  at::Device device_;
  RareTokens rare_;
  DocumentClasses classes_;
};

/// Of a meter whose passes counted "bytes".
double bits_per_byte(const Meter& meter);

}  // namespace collegium::train
