// Learning to name the class of an image. Loss in nats an image, reported as the share of images that are named right;
// where experts choose patches, also how much of their choice falls on the patch that decides.
//
// B images, P patches an image, K classes.
#pragma once
#include "collegium/data/digit_grid.h"
#include "collegium/data/order.h"
#include "collegium/model/image_model.h"
#include "collegium/train/task.h"
#include "collegium/train/trainer.h"

namespace collegium::train {

class ImageTask final : public Task {
 public:
  /// Model and scenes must outlive the task. Of `config`, what concerns passes: batch_size, accumulation, eval_windows,
  /// precision. `seed` is for noise in routing and the order of the scenes. A usage Error where the model's patches are
  /// not those that the scenes are made of.
  ImageTask(const TrainConfig& config, model::ImageModel& model, const data::SceneSet& train,
            const data::SceneSet& held_out, uint64_t seed, at::Device device);

  model::Model& model() override { return model_; }
  Pass pass(int64_t step, int64_t micro) override;
  Evaluation evaluate(const IsInterrupted& is_interrupted = {}) override;
  /// "accuracy"; with experts that take patches also "deciding_share" (of what was kept), "deciding_weight" (of the
  /// gates' sum) and "found" (share of images whose deciding patch some expert took).
  std::map<std::string, double> scores(const Meter& meter) const override;
  Headline headline() const override {
    return {.key = "accuracy", .unit = "of the images right", .speed = "patches/s"};
  }
  data::Cursor cursor(int64_t step) const override { return order_.cursor(step); }

  /// The numbers of held-out batch `index`'s scenes; empty past the last one.
  std::vector<int64_t> held_out_scenes(int64_t index) const;
  const data::SceneSet& held_out() const { return held_out_; }

 private:
  int64_t batch_size_, n_held_out_;
  at::ScalarType compute_;
  model::ImageModel& model_;
  const data::SceneSet& train_;
  const data::SceneSet& held_out_;
  data::EpochOrder order_;
  Random random_;
  at::Device device_;
};

}  // namespace collegium::train
