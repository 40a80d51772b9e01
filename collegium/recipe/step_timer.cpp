#include "collegium/recipe/step_timer.h"

namespace collegium {
namespace {

data::TokenSet random_tokens(const train::TrainConfig& train, int64_t vocabulary) {
  const auto windows = train.batch_size * train.accumulation * 4;
  std::vector<int32_t> tokens(static_cast<size_t>(windows * (train.context + 1)));
  const Random random(1);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocabulary)));
  return {std::move(tokens), std::vector<int32_t>(static_cast<size_t>(vocabulary), 1)};
}

}  // namespace

struct StepTimer::State {
  State(const RunConfig& config, std::unique_ptr<model::LanguageModel> made, const data::TokenSet& tokens,
        const RunSetting& setting)
      : train(config.train),
        model(std::move(made)),
        stream(tokens, {.batch_size = train.batch_size,
                        .context = train.context,
                        .n_micro = train.accumulation,
                        .seed = static_cast<uint64_t>(config.seed)}),
        unused(tokens, {.batch_size = 1, .context = train.context, .max_windows = 1}),
        trainer(train, *model, stream, unused, static_cast<uint64_t>(config.seed), setting.device),
        clock(setting.clock) {}

  train::TrainConfig train;
  std::unique_ptr<model::LanguageModel> model;
  data::BatchStream stream;
  data::EvalStream unused;
  train::Trainer trainer;
  train::Meter meter;
  Clock clock;
};

StepTimer::StepTimer(const RunConfig& config, int64_t vocabulary, const RunSetting& setting)
    : state_(std::make_unique<State>(config, build_model(config, vocabulary, setting.device),
                                     random_tokens(config.train, vocabulary), setting)) {}

StepTimer::StepTimer(const io::Path& folder, const RunSetting& setting) {
  auto run = open_run(folder, setting.device);
  state_ = std::make_unique<State>(run.config, std::move(run.model), prepare_data(run.config, setting).train, setting);
}

StepTimer::~StepTimer() = default;

double StepTimer::step() {
  const auto start = state_->clock();
  state_->trainer.train_step(state_->meter);
  return state_->clock() - start;
}

int64_t StepTimer::tokens_per_step() const {
  const auto& t = state_->train;
  return t.batch_size * t.accumulation * t.context;
}

}  // namespace collegium
