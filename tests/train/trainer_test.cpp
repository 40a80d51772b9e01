// The loop itself: accumulation, clipping, bfloat16, and what becomes of checkpoints when numbers are not finite.
#include "collegium/train/trainer.h"

#include <unistd.h>

#include <filesystem>

#include "collegium/train/language_task.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::test;

// The last token of the vocabulary is never in the text: its embedding gets no gradient.
constexpr int64_t kVocabulary = 17, kUnseen = kVocabulary - 1;

// Text that can be learnt: a short period.
data::TokenSet periodic_tokens() {
  std::vector<int32_t> token;
  for (int32_t i = 0; i < 600; ++i) token.push_back(i * i % 7 + i % 3);
  return {token, std::vector<int32_t>(kVocabulary, 1)};
}

struct Loop {
  train::TrainConfig config;
  data::BatchStream stream;
  data::EvalStream held_out{periodic_tokens(), {.batch_size = 4, .context = 8, .max_windows = 8}};
  std::unique_ptr<model::LanguageModel> model;
  std::unique_ptr<train::LanguageTask> task;
  std::unique_ptr<train::Trainer> trainer;

  static train::TrainConfig usual() {
    train::TrainConfig out;
    out.steps = 40, out.batch_size = 4, out.context = 8, out.eval_every = 0, out.noise = 0;
    out.optimizer.fields = table({{"lr", 1e-2}}), out.schedule = {.name = "constant", .fields = table({{"warmup", 0}})};
    return out;
  }
  // top_k without a loss of its own: a loss over the batch would not be the mean of that over its parts.
  explicit Loop(const train::TrainConfig& c, const char* router = "loss_free")
      : config(c),
        stream(periodic_tokens(),
               {.batch_size = c.batch_size, .context = c.context, .n_micro = c.accumulation, .seed = 5}) {
    const Table moe =
        table({{"name", "routed"}, {"n_experts", 4}, {"d_expert", 8}, {"router", table({{"name", router}})}});
    const Named named{
        .name = "decoder",
        .fields = table({{"d_model", 16}, {"n_layers", 2}, {"n_heads", 2}, {"tie_embeddings", false}, {"moe", moe}})};
    model = find(model::language_models(), named, "model")
                .make(named, {.vocabulary = kVocabulary, .random = Random(1), .options = at::kFloat});
    task = std::make_unique<train::LanguageTask>(config, *model, stream, held_out, 5, at::kCPU);
    trainer = std::make_unique<train::Trainer>(config, *task);
  }

  train::Meter step() {
    train::Meter meter;
    REQUIRE(trainer->train_step(meter));
    return meter;
  }
  // Gradients as the optimiser saw them at the last step, by name.
  std::map<std::string, Tensor> gradients() {
    std::map<std::string, Tensor> out;
    for (const auto& p : parameters_of(*model))
      if (p.trained() && p.tensor->grad().defined()) out[p.name] = p.tensor->grad().clone();
    return out;
  }
  double gradient_norm() {
    double square = 0;
    for (const auto& [name, g] : gradients()) square += g.to(at::kDouble).square().sum().item<double>();
    return std::sqrt(square);
  }
  Tensor weight(const std::string& name) {
    for (const auto& p : parameters_of(*model))
      if (p.name == name) return p.tensor->detach();
    FAIL("no parameter " << name);
    return {};
  }
};

// A folder of checkpoints that is gone with the test.
struct Checkpoints {
  io::Path folder = std::filesystem::temp_directory_path() / text("trainer_test_", ::getpid());
  ~Checkpoints() { std::filesystem::remove_all(folder); }

  train::TrainSinks sinks(std::function<bool()> is_interrupted = {}) const {
    train::TrainSinks out;
    out.fs = &io::real_file_system(), out.checkpoints = folder;
    out.clock = [] { return 0.0; };
    out.is_interrupted = std::move(is_interrupted);
    return out;
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> out;
    for (const auto& c : io::list_checkpoints(io::real_file_system(), folder)) out.push_back(c.step);
    return out;
  }
};

// Asked once a step.
std::function<bool()> after_steps(int64_t n) {
  return [n, asked = int64_t{0}]() mutable { return ++asked >= n; };
}

bool is_finite(const std::vector<io::NamedTensor>& tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const auto& t) { return at::isfinite(t.tensor).all().template item<bool>(); });
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "two micro-batches of four are one batch of eight") {
  auto config = Loop::usual();
  config.clip = 0;
  config.accumulation = 2;
  Loop halves(config);
  config.accumulation = 1, config.batch_size = 8;
  Loop whole(config);
  for (int step = 0; step < 3; ++step) {
    CAPTURE(step);
    const auto a = halves.step(), b = whole.step();
    CHECK(halves.trainer->step() == step + 1);
    CHECK(a.n_tokens() == 64);
    CHECK(a.n_tokens() == b.n_tokens());
    CHECK(a.n_targets() == b.n_targets());
    CHECK(a.loss() == doctest::Approx(b.loss()).epsilon(1e-5));
    const auto of_halves = halves.gradients(), of_whole = whole.gradients();
    REQUIRE(of_halves.size() == of_whole.size());
    for (const auto& [name, gradient] : of_whole) CHECK_MESSAGE(difference(of_halves.at(name), gradient) < 1e-3, name);
    // The balancers saw the same tokens once a step: buffers are equal to the bit.
    CHECK(same_state(save(*halves.model), save(*whole.model), /*only_buffers=*/true));
    // From here on alike, so that rounding does not choose other experts.
    load(*halves.model, save(*whole.model));
  }
}

TEST_CASE_FIXTURE(OneThread, "clipping limits the norm of all gradients together and keeps their direction") {
  auto config = Loop::usual();
  config.clip = 0;
  Loop free(config);
  free.step();
  const auto norm = free.gradient_norm();
  const auto wanted = free.gradients();
  for (const double share : {0.25, 2.0}) {
    CAPTURE(share);
    config.clip = share * norm;
    Loop clipped(config);
    clipped.step();
    const auto scale = std::min(share, 1.0);
    CHECK(clipped.gradient_norm() == doctest::Approx(scale * norm).epsilon(1e-5));
    for (const auto& [name, gradient] : clipped.gradients())
      CHECK_MESSAGE(difference(gradient, wanted.at(name) * scale) < 1e-5, name);
  }
}

TEST_CASE_FIXTURE(OneThread, "a run in bfloat16 learns; weights and router scores stay in float32") {
  auto config = Loop::usual();
  config.precision = train::Precision::bf16;
  Loop loop(config, "top_k");
  const auto pass = loop.task->pass(0, 0);
  CHECK((pass.output.hidden_ND.scalar_type() == at::kBFloat16));
  REQUIRE(pass.output.decisions.size() == 2);
  for (const auto& d : pass.output.decisions) {
    CHECK((d.score_R().scalar_type() == at::kFloat));
    // Scores that had been bfloat16 on the way would survive the way there and back.
    const auto rounded_R = d.score_R().to(at::kBFloat16).to(at::kFloat);
    CHECK(rounded_R.ne(d.score_R()).sum().item<int64_t>() > d.n_kept() / 2);
  }
  const auto first = loop.step().loss();
  double last = first;
  while (loop.trainer->step() < config.steps) last = loop.step().loss();
  CHECK(last < 0.7 * first);
  for (const auto& p : parameters_of(*loop.model))
    if (p.trained()) CHECK_MESSAGE((p.tensor->scalar_type() == at::kFloat), p.name);
}

TEST_CASE_FIXTURE(OneThread, "weights that are not all finite are never saved; the checkpoint before them is kept") {
  const Checkpoints checkpoints;
  auto config = Loop::usual();
  config.save_every = 2;
  Loop begun(config);
  CHECK((begun.trainer->run(checkpoints.sinks(after_steps(3))).reason == train::StopReason::interrupted));
  CHECK(checkpoints.steps() == std::vector<int64_t>{3, 2});
  // A number that no loss meets: only the look at the weights finds it.
  begun.weight("embedding")[kUnseen][0].fill_(std::numeric_limits<float>::infinity());
  const auto stopped = begun.trainer->run(checkpoints.sinks());
  CHECK((stopped.reason == train::StopReason::not_finite));
  CHECK(stopped.step == 4);
  CHECK(stopped.problem == "after step 4 a number of 'embedding' is not finite");
  CHECK(stopped.kept_step == 3);
  CHECK(checkpoints.steps() == std::vector<int64_t>{3, 2});
  CHECK(is_finite(io::load_checkpoint(io::real_file_system(), checkpoints.folder).data.weights));
  // The same at an interrupt.
  Loop resumed(config);
  resumed.trainer->restore(io::load_checkpoint(io::real_file_system(), checkpoints.folder).data, nullptr);
  resumed.weight("embedding")[kUnseen][0].fill_(std::numeric_limits<float>::quiet_NaN());
  CHECK((resumed.trainer->run(checkpoints.sinks(after_steps(1))).reason == train::StopReason::not_finite));
  CHECK(checkpoints.steps() == std::vector<int64_t>{3, 2});
}

TEST_CASE_FIXTURE(OneThread, "a checkpoint whose next pass is not finite is no place to go on from") {
  const Checkpoints checkpoints;
  auto config = Loop::usual();
  config.save_every = 2;
  Loop loop(config);
  CHECK((loop.trainer->run(checkpoints.sinks(after_steps(3))).reason == train::StopReason::interrupted));
  CHECK(checkpoints.steps() == std::vector<int64_t>{3, 2});
  loop.weight("embedding").fill_(std::numeric_limits<float>::quiet_NaN());
  const auto stopped = loop.trainer->run(checkpoints.sinks());
  CHECK((stopped.reason == train::StopReason::not_finite));
  CHECK(stopped.problem == "the loss of step 4 is not a finite number");
  CHECK(stopped.kept_step == 2);
  CHECK(checkpoints.steps() == std::vector<int64_t>{2});
}

TEST_CASE_FIXTURE(OneThread, "numbers that are not finite before the first checkpoint leave none") {
  const Checkpoints checkpoints;
  Loop loop(Loop::usual());
  loop.weight("embedding").fill_(std::numeric_limits<float>::quiet_NaN());
  const auto stopped = loop.trainer->run(checkpoints.sinks());
  CHECK((stopped.reason == train::StopReason::not_finite));
  CHECK_FALSE(stopped.kept_step);
  CHECK(checkpoints.steps().empty());
}
