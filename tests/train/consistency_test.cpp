// The consistency loss: its value by hand, its gradient, and a THOR model whose training with it can be cut and resumed
// without changing a bit.
//
// N tokens, V vocabulary.
#include "collegium/train/consistency.h"

#include <unistd.h>

#include <filesystem>

#include "collegium/train/language_task.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::test;
using collegium::train::consistency_loss;

constexpr int64_t kVocabulary = 17;

data::TokenSet some_tokens() {
  std::vector<int32_t> token;
  for (const auto t : ints(ids(Random(3).at("tokens"), 400, kVocabulary))) token.push_back(static_cast<int32_t>(t));
  return {token, std::vector<int32_t>(kVocabulary, 1)};
}

// A small THOR model and what trains it.
struct Training {
  std::unique_ptr<model::LanguageModel> model;
  data::BatchStream train{some_tokens(), {.batch_size = 3, .context = 8, .n_micro = 2, .seed = 5}};
  data::EvalStream held_out{some_tokens(), {.batch_size = 4, .context = 8, .max_windows = 12}};
  std::unique_ptr<train::LanguageTask> task;
  std::unique_ptr<train::Trainer> trainer;

  train::TrainConfig config;
  uint64_t seed;

  explicit Training(double consistency, uint64_t seed_of_noise = 5) : seed(seed_of_noise) {
    const Table router = table({{"name", "thor"}});
    const Table moe = table({{"name", "routed"}, {"n_experts", 4}, {"d_expert", 8}, {"router", router}});
    const Named named{.name = "decoder",
                      .fields = table({{"d_model", 8}, {"n_layers", 2}, {"n_heads", 2}, {"moe", moe}})};
    model = find(model::language_models(), named, "model")
                .make(named, {.vocabulary = kVocabulary, .random = Random(1), .options = at::kFloat});
    config.steps = 6, config.batch_size = 3, config.context = 8, config.accumulation = 2;
    config.consistency = consistency, config.eval_every = 0;
    begin();
  }
  /// A task and its trainer on the streams as they are.
  void begin() {
    task = std::make_unique<train::LanguageTask>(config, *model, train, held_out, seed, at::kCPU);
    trainer = std::make_unique<train::Trainer>(config, *task);
  }
  void steps(int n) {
    for (int i = 0; i < n; ++i) {
      train::Meter meter;
      REQUIRE(trainer->train_step(meter));
      last = meter.row();
    }
  }
  nlohmann::json last;
};

}  // namespace

TEST_CASE_FIXTURE(OneThread, "the consistency loss is half the sum of both divergences, and 0 where two passes agree") {
  const int64_t N = 5, V = 4;
  const auto a_NV = numbers(Random(1), {N, V}, -2, 2, at::kDouble),
             b_NV = numbers(Random(2), {N, V}, -2, 2, at::kDouble);
  const auto p = reals(a_NV.softmax(1)), q = reals(b_NV.softmax(1));
  double wanted = 0;
  for (size_t i = 0; i < p.size(); ++i)
    wanted += (p[i] * std::log(p[i] / q[i]) + q[i] * std::log(q[i] / p[i])) / (2.0 * N);
  CHECK(consistency_loss(a_NV, b_NV).item<double>() == doctest::Approx(wanted).epsilon(1e-12));
  CHECK(consistency_loss(b_NV, a_NV).item<double>() == doctest::Approx(wanted).epsilon(1e-12));
  CHECK(std::abs(consistency_loss(a_NV, a_NV + 3).item<double>()) < 1e-12);
}

TEST_CASE_FIXTURE(OneThread, "gradient of the consistency loss") {
  auto a_NV = numbers(Random(1), {3, 4}, -2, 2, at::kDouble).requires_grad_(true);
  auto b_NV = numbers(Random(2), {3, 4}, -2, 2, at::kDouble).requires_grad_(true);
  const auto report =
      check_gradients([&] { return Evaluated{consistency_loss(a_NV, b_NV), {}}; }, {{"a", a_NV}, {"b", b_NV}});
  CHECK_MESSAGE(report.worst < 1e-8, report.where);
  CHECK(report.largest > 1e-2);
}

TEST_CASE_FIXTURE(OneThread, "a step with consistency is the mean of two passes plus the divergence") {
  Training plain(0), both(0.5), weak(1e-12);
  plain.steps(1), both.steps(1), weak.steps(1);
  CHECK_FALSE(plain.last["aux"].contains("consistency"));
  CHECK(both.last["aux"]["consistency"].get<double>() > 0);
  // The first pass of all three is the same, so the reported losses differ by the second pass only.
  CHECK(both.last["loss"].get<double>() == weak.last["loss"].get<double>());
  CHECK(both.last["loss"].get<double>() != plain.last["loss"].get<double>());
  CHECK_FALSE(same_state(save(*both.model), save(*weak.model)));
}

TEST_CASE_FIXTURE(OneThread, "training with consistency resumes to the bit") {
  const auto folder = std::filesystem::temp_directory_path() / text("consistency_test_", ::getpid());
  Training whole(2);
  whole.steps(6);
  Training cut(2), resumed(2);
  int64_t asked = 0;
  train::TrainSinks sinks;
  sinks.fs = &io::real_file_system(), sinks.checkpoints = folder;
  sinks.clock = [] { return 0.0; };
  sinks.is_interrupted = [&] { return ++asked >= 3; };
  CHECK((cut.trainer->run(sinks).reason == train::StopReason::interrupted));
  CHECK(cut.trainer->step() == 3);
  resumed.trainer->restore(io::load_checkpoint(*sinks.fs, folder).data, nullptr);
  resumed.steps(3);
  CHECK(same_state(save(*resumed.model), save(*whole.model)));
  std::filesystem::remove_all(folder);
}

TEST_CASE_FIXTURE(OneThread,
                  "evaluation draws the same experts each time, others for another seed, others in each batch") {
  Training one(0), same(0), other(0, 6);
  const auto bits = [](Training& t) { return train::bits_per_byte(t.task->evaluate().meter); };
  CHECK(bits(one) == bits(one));
  CHECK(bits(one) == bits(same));
  CHECK(bits(one) != bits(other));
}

TEST_CASE("agreement: the share of tokens with the same likeliest token, and the divergence of both passes") {
  const auto a_NV = at::tensor({2.0, 0.0, 0.0, 2.0, 1.0, 0.0}).reshape({3, 2});
  const auto b_NV = at::tensor({1.0, 0.0, 2.0, 0.0, 1.0, 0.0}).reshape({3, 2});
  train::Agreement agreement;
  nlohmann::json row = nlohmann::json::object();
  agreement.report(row);
  CHECK(row.empty());
  agreement.add(a_NV, b_NV);
  agreement.add(a_NV.slice(0, 0, 1), a_NV.slice(0, 0, 1));
  agreement.add(a_NV.slice(0, 0, 0), a_NV.slice(0, 0, 0));
  agreement.report(row);
  CHECK(row["agreement"].get<double>() == doctest::Approx(3.0 / 4));
  CHECK(row["divergence"].get<double>() ==
        doctest::Approx(consistency_loss(a_NV, b_NV).item<double>() * 3 / 4).epsilon(1e-6));
}

TEST_CASE_FIXTURE(OneThread, "targets of a prompt count neither in training nor in evaluation") {
  const auto set = [](int64_t n_prompt) {
    const auto plain = some_tokens();
    std::vector<int32_t> token;
    std::vector<data::DocumentSpan> documents;
    for (int64_t i = 0; i < plain.n_tokens(); ++i) token.push_back(plain.token(i));
    for (int64_t d = 0; d < 40; ++d) documents.push_back({.begin = 10 * d, .n_tokens = 10, .n_prompt = n_prompt});
    return data::TokenSet(token, std::vector<int32_t>(kVocabulary, 1), documents);
  };
  Training all(1.0), some(1.0), none(1.0);
  const auto with = [&](Training& t, int64_t n_prompt) {
    t.train = data::BatchStream(set(n_prompt), {.batch_size = 3, .context = 8, .n_micro = 2, .seed = 5});
    t.held_out = data::EvalStream(set(n_prompt), {.batch_size = 4, .context = 8, .max_windows = 12});
    t.begin();
    return t.task->evaluate({}, 0, true);
  };
  const auto whole = with(all, 0), half = with(some, 5);
  CHECK(whole.meter.n_targets() == 96);
  CHECK(half.meter.n_tokens() == 96);
  // Of the targets 1 to 96, those at 5 to 9 of each ten.
  CHECK(half.meter.n_targets() == 47);
  CHECK(half.meter.loss() != doctest::Approx(whole.meter.loss()));
  some.steps(2);
  CHECK(some.last["loss"].get<double>() > 0);
  // Documents that are all prompt: nothing to learn, and nothing breaks.
  CHECK(with(none, 10).meter.n_targets() == 0);
  train::Meter meter;
  CHECK(none.trainer->train_step(meter));
  CHECK(meter.n_targets() == 0);
}
