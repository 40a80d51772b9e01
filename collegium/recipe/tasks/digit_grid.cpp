// Which class of digit is in the scene? Scenes of real digits of which one decides (data/digit_grid.h); [model] is an
// image model. After P089's experiments on MNIST.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <numeric>

#include "collegium/data/digit_grid.h"
#include "collegium/model/image_model.h"
#include "collegium/recipe/workload.h"
#include "collegium/train/image_task.h"

namespace collegium {
namespace {

std::unique_ptr<model::ImageModel> build_image_model(const RunConfig& config, const data::DigitGridConfig& scenes,
                                                     at::Device device) {
  const auto side = data::scene_side(scenes);
  return find(model::image_models(), config.model, "image model")
      .make(config.model, {.n_channels = 1,
                           .height = side,
                           .width = side,
                           .n_classes = static_cast<int64_t>(scenes.classes.size()),
                           .random = Random(static_cast<uint64_t>(config.seed)).at("model"),
                           .options = at::TensorOptions().dtype(at::kFloat).device(device)});
}

class DigitGridWorkload final : public Workload {
 public:
  DigitGridWorkload(const RunConfig& config, data::DigitGridConfig grid, data::DigitScenes scenes)
      : config_(config), grid_(std::move(grid)), scenes_(std::move(scenes)) {
    auto model = build_model(at::kMeta);
    learn(*model, at::kMeta);  // refuses a model whose patches are not the scenes'
  }

  std::unique_ptr<model::Model> build_model(at::Device device) const override {
    return build_image_model(config_, grid_, device);
  }
  std::unique_ptr<train::Task> learn(model::Model& model, at::Device device) const override {
    return std::make_unique<train::ImageTask>(config_.train, dynamic_cast<model::ImageModel&>(model), scenes_.train,
                                              scenes_.held_out, static_cast<uint64_t>(config_.seed), device);
  }
  route::RoutingTrace trace_held_out(model::Model& model, int64_t n_tokens, int64_t step,
                                     at::Device device) const override {
    const at::NoGradGuard no_grad;
    auto& image_model = dynamic_cast<model::ImageModel&>(model);
    const auto layers = model.facts(0).moe_layers;
    const auto P = image_model.patches_per_image();
    const auto n_scenes = std::min((n_tokens + P - 1) / P, scenes_.held_out.size());
    route::RoutingTrace trace;
    for (int64_t begin = 0, pass = 0; begin < n_scenes; begin += config_.train.batch_size, ++pass) {
      std::vector<int64_t> numbers;
      for (auto i = begin; i < std::min(n_scenes, begin + config_.train.batch_size); ++i) numbers.push_back(i);
      const auto batch = scenes_.held_out.batch(numbers);
      const auto out =
          image_model.forward(batch.image_BCHW.to(device),
                              {.random = Random(0).at("trace").at(static_cast<uint64_t>(pass)), .record = true});
      for (size_t l = 0; l < out.decisions.size(); ++l)
        trace.records.push_back({.step = step,
                                 .pass = pass,
                                 .layer = layers[l],
                                 .token_id_N = batch.shown_BP.flatten(),
                                 .decision = out.decisions[l]});
    }
    return trace;
  }
  int64_t read_held_out(model::Model& model, at::Device device) const override {
    std::vector<int64_t> numbers(static_cast<size_t>(std::min(config_.train.batch_size, scenes_.held_out.size())));
    std::iota(numbers.begin(), numbers.end(), int64_t{0});
    auto& image_model = dynamic_cast<model::ImageModel&>(model);
    image_model.forward(scenes_.held_out.batch(numbers).image_BCHW.to(device), {.random = Random(0).at("held out")});
    return static_cast<int64_t>(numbers.size()) * image_model.patches_per_image();
  }
  std::string key() const override { return scenes_.key; }
  nlohmann::json record() const override {
    const auto side = [&](const data::SceneSet& s) {
      return nlohmann::json{{"scenes", s.size()}, {"patches", s.size() * grid_.grid * grid_.grid}};
    };
    const auto& s = scenes_.source;
    return {{"key", scenes_.key},
            {"train", side(scenes_.train)},
            {"held_out", side(scenes_.held_out)},
            {"notes", nlohmann::json::array()},
            {"sources", {{{"name", s.name}, {"sha256", s.sha256}, {"licence", s.licence}}}}};
  }

 private:
  const RunConfig& config_;
  data::DigitGridConfig grid_;
  data::DigitScenes scenes_;
};

// As many random images of each digit as the scenes need.
data::ImageSet random_digits(const data::DigitGridConfig& grid) {
  constexpr int64_t kDigits = 10;
  const auto per_side = [&](int64_t n, double share) { return static_cast<double>(n + 1) / share; };
  const auto each = 2 + static_cast<int64_t>(std::ceil(std::max(
                            per_side(grid.n_train, 1 - grid.held_out) / static_cast<double>(grid.classes.size()),
                            per_side(grid.n_held_out, grid.held_out) / static_cast<double>(grid.classes.size()))));
  const auto side = data::digit_side();
  data::ImageSet out;
  // One image, seen many times: a plan measures speed, not learning.
  const auto one = Random(1).uniform({1, side, side}, 0, 256, at::kFloat).to(at::kByte);
  out.pixel_NHW = one.expand({kDigits * each, side, side});
  out.class_N = at::arange(kDigits, at::kLong).repeat_interleave(each);
  out.n_classes = kDigits;
  out.record = {.name = "random", .sha256 = "", .licence = ""};
  return out;
}

class DigitGridTask final : public TaskKind, public Makes<DigitGridTask, TaskKind> {
 public:
  using Interface = TaskKind;
  using Config = data::DigitGridConfig;
  DigitGridTask(const Config& config, const Inputs&) : grid_(config) {}

  std::unique_ptr<Workload> prepare(const RunConfig& config, const RunSetting& setting) const override {
    const auto images = data::read_image_source(grid_.source, setting.data_paths, [&](const data::DataProgress& p) {
      if (setting.progress && p.done == 0) setting.progress->note(text("fetching ", grid_.source, " …"));
    });
    return workload(config, images);
  }
  std::unique_ptr<Workload> imagine(const RunConfig& config) const override {
    return workload(config, random_digits(grid_));
  }
  std::unique_ptr<model::Model> stored_model(const RunConfig& config, const nlohmann::json&,
                                             at::Device device) const override {
    return build_image_model(config, grid_, device);
  }
  int64_t sequence_length(const RunConfig&) const override { return grid_.grid * grid_.grid; }
  std::string token_words(int64_t digit) const override { return text(digit); }

 private:
  std::unique_ptr<Workload> workload(const RunConfig& config, const data::ImageSet& images) const {
    return std::make_unique<DigitGridWorkload>(config, grid_,
                                               data::compose_scenes(grid_, images, static_cast<uint64_t>(config.seed)));
  }

  Config grid_;
};

}  // namespace

extern constinit const Entry<TaskKind> task_digit_grid =
    entry<DigitGridTask>({.name = "digit_grid",
                          .paper = 89,
                          .source = "Chowdhury 2023 (pMoE), experiments on MNIST",
                          .taxonomy = "task/vision",
                          .summary = "name the one digit of a scene that decides, among irrelevant ones"});

}  // namespace collegium
