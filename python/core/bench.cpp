// The real training step on random tokens, for python/collegium/bench/demonstration.py.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <ATen/ops/cat.h>

#include "collegium/recipe/run.h"
#include "collegium/train/language_task.h"
#include "python/core/convert.h"
#include "python/core/modules.h"

namespace collegium::python {
namespace {

class BenchStep {
 public:
  BenchStep(const std::string& recipe, const std::vector<std::string>& sets, int64_t vocabulary)
      : config_(read_recipe(recipe, sets).run),
        model_(build_language_model(config_, vocabulary, at::kCPU)),
        set_(random_tokens(config_.train, vocabulary), std::vector<int32_t>(static_cast<size_t>(vocabulary), 1)),
        stream_(set_, {.batch_size = config_.train.batch_size,
                       .context = config_.train.context,
                       .n_micro = config_.train.accumulation}),
        held_out_(set_, {.batch_size = 1, .context = config_.train.context, .max_windows = 1}),
        task_(config_.train, *model_, stream_, held_out_, 1, at::kCPU),
        trainer_(config_.train, task_) {}

  /// Mean loss in nats of one step.
  double step() {
    const py::gil_scoped_release released;
    train::Meter meter;
    if (!trainer_.train_step(meter)) fail(ErrorKind::data, "bench: the loss is not a finite number");
    return meter.loss();
  }
  int64_t tokens_per_step() const {
    return config_.train.batch_size * config_.train.context * config_.train.accumulation;
  }
  /// int64 [batch_size, context + 1]: what step number `step` reads, inputs and targets.
  at::Tensor batch(int64_t step) const {
    const auto b = stream_.batch(step, 0);
    return at::cat({b.input_BT, b.target_BT.slice(1, -1)}, 1);
  }
  py::dict config() const { return dict_from(resolved(config_)); }
  py::dict parameters() const {
    py::dict out;
    for (const auto& item : parameters_of(*model_))
      if (item.trained()) out[py::str(item.name)] = item.tensor->detach();
    return out;
  }

 private:
  static std::vector<int32_t> random_tokens(const train::TrainConfig& t, int64_t vocabulary) {
    std::vector<int32_t> tokens(static_cast<size_t>(t.batch_size * t.accumulation * 4 * (t.context + 1)));
    const Random random(1);
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocabulary)));
    return tokens;
  }

  RunConfig config_;
  std::unique_ptr<model::LanguageModel> model_;
  data::TokenSet set_;
  data::BatchStream stream_;
  data::EvalStream held_out_;
  train::LanguageTask task_;
  train::Trainer trainer_;
};

}  // namespace

void bind_bench(py::module_& m) {
  py::class_<BenchStep>(m, "BenchStep", "Training steps of a recipe's model on random tokens.")
      .def(py::init<const std::string&, const std::vector<std::string>&, int64_t>(), py::arg("recipe"), py::arg("sets"),
           py::arg("vocabulary"))
      .def("step", &BenchStep::step)
      .def("batch", &BenchStep::batch, py::arg("step"))
      .def("config", &BenchStep::config)
      .def("parameters", &BenchStep::parameters)
      .def_property_readonly("tokens_per_step", &BenchStep::tokens_per_step);
}

}  // namespace collegium::python
