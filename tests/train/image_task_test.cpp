// The image task: it learns, counts what it says it counts, and can be cut and resumed without changing a bit.
#include "collegium/train/image_task.h"

#include <unistd.h>

#include <filesystem>

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::test;

// Digits that a child could tell apart: digit d is bright in row 2 d + 4, with some noise.
data::ImageSet plain_digits() {
  constexpr int64_t kEach = 60;
  data::ImageSet out;
  out.n_classes = 10;
  out.class_N = at::arange(10, at::kLong).repeat_interleave(kEach);
  auto pixel = numbers(Random(7), {10 * kEach, 28, 28}, 0, 40);
  for (int64_t i = 0; i < 10 * kEach; ++i) pixel[i][2 * (i / kEach) + 4] += 200;
  out.pixel_NHW = pixel.to(at::kByte);
  out.record = {.name = "plain", .sha256 = "0", .licence = ""};
  return out;
}

struct ImageTraining {
  data::DigitScenes scenes =
      compose_scenes({.grid = 2, .n_train = 48, .n_held_out = 22, .held_out = 0.3}, plain_digits(), 1);
  std::unique_ptr<model::ImageModel> model;
  std::unique_ptr<train::ImageTask> task;
  std::unique_ptr<train::Trainer> trainer;

  explicit ImageTraining(const std::string& layer = "routed", int64_t patch = 28) {
    Table moe = table({{"name", layer}});
    if (layer == "routed")
      moe = table({{"name", layer},
                   {"n_experts", 2},
                   {"d_expert", 4},
                   {"router", table({{"name", "patch_choice"}, {"l", 1}})}});
    if (layer == "omni" || layer == "subspace") moe.set("n_experts", 16);
    const Named named{.name = "patch_classifier", .fields = table({{"patch", patch}, {"d_model", 8}, {"moe", moe}})};
    model = find(model::image_models(), named, "image model")
                .make(named, {.height = 56, .width = 56, .n_classes = 2, .random = Random(1), .options = at::kFloat});
    train::TrainConfig config;
    config.steps = 60, config.batch_size = 8, config.accumulation = 2, config.eval_every = 0;
    config.optimizer.fields = table({{"lr", 1e-2}});
    task = std::make_unique<train::ImageTask>(config, *model, scenes.train, scenes.held_out, 5, at::kCPU);
    trainer = std::make_unique<train::Trainer>(config, *task);
  }
  void steps(int n) {
    for (int i = 0; i < n; ++i) {
      train::Meter meter;
      REQUIRE(trainer->train_step(meter));
    }
  }
};

}  // namespace

TEST_CASE_FIXTURE(OneThread, "an evaluation counts images, patches and deciding patches") {
  ImageTraining t;
  const auto evaluation = t.task->evaluate();
  CHECK(evaluation.meter.n_targets() == 22);
  CHECK(evaluation.meter.n_tokens() == 22 * 4);
  CHECK(evaluation.meter.count("kept") == 22 * 2);  // two experts, one patch each
  CHECK(evaluation.meter.count("images") == 22);
  // By hand, from one batch of all scenes.
  std::vector<int64_t> all(22);
  for (int64_t i = 0; i < 22; ++i) all[static_cast<size_t>(i)] = i;
  const auto batch = t.scenes.held_out.batch(all);
  const at::NoGradGuard no_grad;
  const auto out = t.model->forward(batch.image_BCHW, {});
  const auto right = t.model->logits(out.hidden_ND).argmax(1).eq(batch.label_B).sum().item<int64_t>();
  const auto is_deciding_N = batch.is_deciding_BP.flatten();
  std::set<int64_t> found;
  double deciding = 0, weight = 0;
  for (int64_t r = 0; r < out.decisions[0].n_kept(); ++r) {
    const auto token = out.decisions[0].token_R()[r].item<int64_t>();
    if (!is_deciding_N[token].item<bool>()) continue;
    ++deciding, weight += out.decisions[0].gate_R()[r].item<double>(), found.insert(token);
  }
  const auto scores = t.task->scores(evaluation.meter);
  CHECK(scores.at("accuracy") == doctest::Approx(static_cast<double>(right) / 22));
  CHECK(scores.at("deciding_share") == doctest::Approx(deciding / 44));
  CHECK(scores.at("deciding_weight") == doctest::Approx(weight / 44));
  CHECK(scores.at("found") == doctest::Approx(static_cast<double>(found.size()) / 22));
  CHECK_FALSE(ImageTraining("dense").task->scores(ImageTraining("dense").task->evaluate().meter).count("found"));
}

TEST_CASE_FIXTURE(OneThread, "training tells plain digits apart") {
  for (const auto* layer : {"routed", "dense"}) {
    ImageTraining t(layer);
    t.steps(60);
    CAPTURE(layer);
    CHECK(t.task->scores(t.task->evaluate().meter).at("accuracy") > 0.9);
  }
}

TEST_CASE_FIXTURE(OneThread, "training on images resumes to the bit") {
  const auto folder = std::filesystem::temp_directory_path() / text("image_task_test_", ::getpid());
  // Two of these remember more than weights: running statistics, and which gradients of the last step conflicted.
  for (const auto* layer : {"routed", "omni", "subspace"}) {
    CAPTURE(layer);
    ImageTraining whole(layer), cut(layer), resumed(layer);
    whole.steps(20);
    int64_t asked = 0;
    train::TrainSinks sinks;
    sinks.fs = &io::real_file_system(), sinks.checkpoints = folder;
    sinks.clock = [] { return 0.0; };
    sinks.is_interrupted = [&] { return ++asked >= 7; };
    CHECK((cut.trainer->run(sinks).reason == train::StopReason::interrupted));
    CHECK(cut.trainer->step() == 7);
    resumed.trainer->restore(io::load_checkpoint(*sinks.fs, folder).data, nullptr);
    resumed.steps(13);
    CHECK(same_state(save(*resumed.model), save(*whole.model)));
    std::filesystem::remove_all(folder);
  }
}

TEST_CASE_FIXTURE(OneThread, "patches that are not the scenes' are refused") {
  CHECK(complaint([] { ImageTraining("dense", 14); }) ==
        "task: a scene shows 4 digits, but the model cuts it into 16 patches; which patch decides is then unknown");
}
