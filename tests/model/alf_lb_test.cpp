// The theorems on the bias update of loss-free balancing (P108, see tests/route/alf_lb_test.cpp) on the scores of a
// language model that was trained with it for a short while.
//
// B sequences of T tokens, V = 256 bytes.
#include "tests/support/alf_lb.h"
#include "collegium/model/language_model.h"

using namespace collegium;
using namespace collegium::test;

namespace {

// Shakespeare, sonnet 18.
constexpr std::string_view bytes =
    "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n"
    "Rough winds do shake the darling buds of May,\nAnd summer's lease hath all too short a date:\n"
    "Sometime too hot the eye of heaven shines,\nAnd often is his gold complexion dimm'd;\n"
    "And every fair from fair sometime declines,\nBy chance, or nature's changing course, untrimm'd;\n"
    "But thy eternal summer shall not fade,\nNor lose possession of that fair thou ow'st;\n"
    "Nor shall death brag thou wander'st in his shade,\nWhen in eternal lines to time thou grow'st;\n"
    "So long as men can breathe, or eyes can see,\nSo long lives this, and this gives life to thee.\n";

}  // namespace

TEST_CASE_FIXTURE(OneThread, "alf_lb: the theorems hold on scores of a briefly trained language model") {
  const int64_t B = 4, T = 64, V = 256;
  const Named named{
      .name = "decoder",
      .fields = table({{"d_model", 32},
                       {"n_layers", 2},
                       {"n_heads", 2},
                       {"moe", table({{"name", "routed"},
                                      {"n_experts", 8},
                                      {"d_expert", 16},
                                      {"router", table({{"name", "loss_free"}, {"k", 2}, {"rate", 0.01}})}})}})};
  const auto model = find(model::language_models(), named, "model")
                         .make(named, {.vocabulary = V, .random = Random(1), .options = at::kFloat});
  const auto batch = [&](uint64_t step) {
    auto token_BT = at::empty({B, T + 1}, at::kLong);
    for (int64_t b = 0; b < B; ++b) {
      const auto start =
          Random(step).at("start").below(static_cast<uint64_t>(b), bytes.size() - static_cast<size_t>(T) - 1);
      for (int64_t t = 0; t <= T; ++t)
        token_BT[b][t] = static_cast<int64_t>(static_cast<unsigned char>(bytes[start + static_cast<size_t>(t)]));
    }
    return token_BT;
  };
  double first = 0, last = 0;
  for (uint64_t step = 0; step < 60; ++step) {
    const auto token_BT = batch(step);
    const auto out = model->forward(token_BT.slice(1, 0, T), {.phase = route::Phase::train, .random = Random(step)});
    const auto loss = model::token_losses(*model, out.hidden_ND, token_BT.slice(1, 1).reshape({-1})).mean();
    (step == 0 ? first : last) = loss.item<double>();
    loss.backward();
    const at::NoGradGuard no_grad;
    for (const auto& p : parameters_of(*model)) {
      if (!p.trained() || !p.tensor->grad().defined()) continue;
      const auto& gradient = p.tensor->grad();
      p.tensor->sub_(gradient * (0.03 * p.tensor->norm() / (gradient.norm() + 1e-8)));
      p.tensor->mutable_grad() = Tensor();
    }
    model->step();
  }
  CHECK(last < 0.8 * first);

  const at::NoGradGuard no_grad;
  const auto out = model->forward(batch(1000).slice(1, 0, T), {.random = Random(9), .record = true});
  REQUIRE(out.records.size() == 2);
  for (const auto& record : out.records) {
    // The bias of training is left out, so the balancer starts anew from loads that are far from even.
    const auto result = check_balancing(record.score_NE.slice(0, 0, 96), 2, 1e-4, 2000);
    // Equal letters have nearly equal scores and move together, so (iii) holds with that many tokens instead of E - 1.
    MESSAGE("furthest from even: " << result.first_deviation << " at first, " << result.late_deviation
                                   << " at last; largest change in one step: " << result.largest_change);
    CHECK(result.first_deviation > 8);
    CHECK(result.late_deviation < result.first_deviation / 2);
  }
}
