// Next-token prediction on text: [data] says which text and how it becomes tokens, [model] is a language model.
#include <ATen/ATen.h>

#include "collegium/model/language_model.h"
#include "collegium/recipe/board_probe.h"
#include "collegium/recipe/translation.h"
#include "collegium/recipe/workload.h"
#include "collegium/train/language_task.h"

namespace collegium {
namespace {

struct TokenStreams {
  TokenStreams(const RunConfig& config, const data::TokenSet& train_set, const data::TokenSet& held_out_set)
      : train(train_set, {.batch_size = config.train.batch_size,
                          .context = config.train.context,
                          .n_micro = config.train.accumulation,
                          .seed = static_cast<uint64_t>(config.seed)}),
        held_out(held_out_set, {.batch_size = config.train.batch_size,
                                .context = config.train.context,
                                .max_windows = config.train.eval_windows}) {}
  data::BatchStream train;
  data::EvalStream held_out;
};

class LanguageWorkload : public Workload {
 public:
  LanguageWorkload(const RunConfig& config, const data::TokenSet& train, const data::TokenSet& held_out,
                   int64_t vocabulary)
      : config_(config), vocabulary_(vocabulary), streams_(config, train, held_out) {}

  std::unique_ptr<model::Model> build_model(at::Device device) const override {
    auto model = build_language_model(config_, vocabulary_, device, counts(device));
    // Said now and not after training.
    const auto n_layers = model->facts(config_.train.context).n_layers;
    require(config_.sample.board_layer < n_layers, "sample.board_layer: there is no layer ", config_.sample.board_layer,
            " in a model of ", n_layers, " layers");
    return model;
  }
  std::unique_ptr<train::Task> learn(model::Model& model, at::Device device) const override {
    return std::make_unique<train::LanguageTask>(config_.train, dynamic_cast<model::LanguageModel&>(model),
                                                 streams_.train, streams_.held_out, static_cast<uint64_t>(config_.seed),
                                                 device);
  }
  route::RoutingTrace trace_held_out(model::Model& model, int64_t n_tokens, int64_t step,
                                     at::Device device) const override {
    const auto T = config_.train.context, windows = (n_tokens + T - 1) / T;
    const data::EvalStream stream(
        held_out_set(),
        {.batch_size = std::min(config_.train.batch_size, windows), .context = T, .max_windows = windows});
    route::RoutingTrace trace;
    for (int64_t i = 0; i < stream.n_batches(); ++i) {
      const auto batch = stream.batch(i);
      infer::trace_batch(
          trace, dynamic_cast<model::LanguageModel&>(model), batch.input_BT.to(device),
          {.mask_BT = batch.mask_BT.to(device), .random = Random(0).at("trace").at(static_cast<uint64_t>(i))}, T, step,
          i);
    }
    return trace;
  }

  int64_t read_held_out(model::Model& model, at::Device device) const override {
    const auto n = config_.train.batch_size;
    const data::EvalStream stream(held_out_set(),
                                  {.batch_size = n, .context = config_.train.context, .max_windows = n});
    const auto batch = stream.batch(0);
    dynamic_cast<model::LanguageModel&>(model).forward(
        batch.input_BT.to(device), {.mask_BT = batch.mask_BT.to(device), .random = Random(0).at("held out")});
    return batch.input_BT.numel();
  }

 protected:
  virtual Tensor counts(at::Device) const { return {}; }
  virtual const data::TokenSet& held_out_set() const = 0;
  const RunConfig& config_;
  int64_t vocabulary_;

 private:
  TokenStreams streams_;
};

class TextWorkload final : public LanguageWorkload {
 public:
  TextWorkload(const RunConfig& config, data::PreparedData data)
      : LanguageWorkload(config, data.train, data.held_out, data.tokenizer.vocab_size()), data_(std::move(data)) {}

  nlohmann::json answers(model::Model& model, at::Device device) const override {
    return score_translations(dynamic_cast<model::LanguageModel&>(model), data_.tokenizer, data_.held_out,
                              config_.sample.translations, config_.train.context, device);
  }
  nlohmann::json probes(model::Model& model, at::Device device) const override {
    return score_boards(dynamic_cast<model::LanguageModel&>(model), data_.tokenizer, data_.held_out,
                        config_.sample.boards, config_.sample.board_layer, config_.train.context, device);
  }
  std::string key() const override { return data_.key; }
  std::string words() const override { return data_.tokenizer.to_json(); }
  std::vector<std::string> notes() const override { return data_.notes; }
  void save(const io::Path& folder) const override { data_.tokenizer.save(folder / "tokenizer.json"); }
  nlohmann::json record() const override {
    const auto side = [](const data::SplitStatistics& s) {
      return nlohmann::json{{"documents", s.n_documents}, {"bytes", s.n_bytes}, {"tokens", s.n_tokens}};
    };
    nlohmann::json out = {
        {"key", data_.key},
        {"train", side(data_.train_statistics)},
        {"held_out", side(data_.held_out_statistics)},
        {"notes", data_.notes},
        {"tokenizer", {{"kind", data_.tokenizer.kind()}, {"vocabulary", data_.tokenizer.vocab_size()}}}};
    for (const auto& s : data_.sources)
      out["sources"].push_back({{"name", s.name}, {"sha256", s.sha256}, {"licence", s.licence}});
    return out;
  }

 private:
  Tensor counts(at::Device device) const override {
    if (device.is_meta()) return {};
    return at::tensor(data_.train.counts(), at::kLong).to(device);
  }
  const data::TokenSet& held_out_set() const override { return data_.held_out; }

  data::PreparedData data_;
};

data::TokenSet random_tokens(const RunConfig& config, int64_t vocabulary) {
  const auto& t = config.train;
  constexpr double kMost = 1 << 28;
  const auto asked = 4.0 * static_cast<double>(t.batch_size) * static_cast<double>(t.accumulation) *
                     static_cast<double>(t.context + 1);
  if (asked > kMost)
    throw Error(ErrorKind::refused,
                text("a step of ", asked / 4, " tokens is more than the ", kMost / 4, " that can be planned for"),
                "lower train.batch_size, train.accumulation or train.context");
  std::vector<int32_t> tokens(static_cast<size_t>(asked));
  const Random random(1);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocabulary)));
  return {std::move(tokens), std::vector<int32_t>(static_cast<size_t>(vocabulary), 1)};
}

class RandomTextWorkload final : public LanguageWorkload {
 public:
  RandomTextWorkload(const RunConfig& config, int64_t vocabulary)
      : RandomTextWorkload(config, vocabulary, random_tokens(config, vocabulary)) {}
  std::string key() const override { return "random"; }
  nlohmann::json record() const override { return {{"key", "random"}, {"tokenizer", {{"vocabulary", vocabulary_}}}}; }

 private:
  RandomTextWorkload(const RunConfig& config, int64_t vocabulary, data::TokenSet set)
      : LanguageWorkload(config, set, set, vocabulary), set_(std::move(set)) {}
  const data::TokenSet& held_out_set() const override { return set_; }

  data::TokenSet set_;
};

// An upper bound where the tokenizer is still to be trained.
int64_t planned_vocabulary(const data::DataConfig& data) {
  if (data.tokenizer == "byte") return 257;
  if (data.tokenizer == "bpe") return data.vocab_size;
  return data::Tokenizer::load(data.tokenizer).vocab_size();
}

data::PreparedData prepare_text(const RunConfig& config, const RunSetting& setting) {
  if (!setting.progress) return data::prepare(config.data, setting.data_paths);
  std::string stage;
  const auto prepared = data::prepare(config.data, setting.data_paths, [&](const data::DataProgress& p) {
    if (stage != p.stage) {
      if (!stage.empty()) setting.progress->finish();
      stage = p.stage;
      setting.progress->start(p.total, "", text("data: ", stage));
    }
    setting.progress->update(p.done);
    if (setting.is_interrupted && setting.is_interrupted())
      throw Error(ErrorKind::interrupted, "interrupted while preparing the data; nothing was started");
  });
  if (!stage.empty()) setting.progress->finish();
  return prepared;
}

class LanguageTaskKind final : public TaskKind, public Makes<LanguageTaskKind, TaskKind> {
 public:
  using Interface = TaskKind;
  struct Config {
    void visit(Fields&) {}
  };
  LanguageTaskKind(const Config&, const Inputs&) {}

  std::unique_ptr<Workload> prepare(const RunConfig& config, const RunSetting& setting) const override {
    return std::make_unique<TextWorkload>(config, prepare_text(config, setting));
  }
  std::unique_ptr<Workload> imagine(const RunConfig& config) const override {
    data::check_config(config.data);
    return std::make_unique<RandomTextWorkload>(config, planned_vocabulary(config.data));
  }
  std::unique_ptr<model::Model> stored_model(const RunConfig& config, const nlohmann::json& record,
                                             at::Device device) const override {
    return build_language_model(config, record.at("tokenizer").at("vocabulary").get<int64_t>(), device);
  }
  int64_t sequence_length(const RunConfig& config) const override { return config.train.context; }
};

}  // namespace

std::unique_ptr<model::LanguageModel> build_language_model(const RunConfig& config, int64_t vocabulary,
                                                           at::Device device, const Tensor& count_V) {
  return find(model::language_models(), config.model, "language model")
      .make(config.model, {.vocabulary = vocabulary,
                           .count_V = count_V,
                           .random = Random(static_cast<uint64_t>(config.seed)).at("model"),
                           .options = at::TensorOptions().dtype(at::kFloat).device(device)});
}

extern constinit const Entry<TaskKind> task_language =
    entry<LanguageTaskKind>({.name = "language",
                             .source = "Bengio 2003; Radford 2019",
                             .taxonomy = "task/language",
                             .summary = "predict the next token of the text that [data] names",
                             .claims = {.has_text = true}});

}  // namespace collegium
