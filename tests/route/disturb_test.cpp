// Noise on routers' logits: relative to each token's own spread, the same for the same draw, and none for closed
// experts.
//
// N tokens, E experts.
#include "collegium/route/score_function.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t N = 4000, E = 8;
constexpr double kNoise = 0.5;

Tensor logits(double scale) {
  return Random(3).normal({N, E}, scale, at::TensorOptions().dtype(at::kDouble));
}

Scores scores_of(const Tensor& logit_NE, ScoreKind kind) {
  return {.logit_NE = logit_NE, .score_NE = score_function(logit_NE, kind), .kind = kind};
}

Scores disturbed(Scores scores) {
  disturb(scores, kNoise, Random(7));
  return scores;
}

Tensor spread_of(const Tensor& logit_NE) {
  return logit_NE.std(1, /*unbiased=*/false, /*keepdim=*/true);
}

}  // namespace

TEST_CASE("noise is a share of the spread of a token's own logits") {
  const auto logit_NE = logits(2);
  const auto moved = disturbed(scores_of(logit_NE, ScoreKind::softmax));
  const auto unit_NE = (moved.logit_NE - logit_NE) / spread_of(logit_NE);
  CHECK(unit_NE.mean().item<double>() == doctest::Approx(0).epsilon(0.01));
  CHECK(unit_NE.std().item<double>() == doctest::Approx(kNoise).epsilon(0.02));
  // A router with ten times larger logits is disturbed ten times as much: the same choices change.
  const auto larger = disturbed(scores_of(10 * logit_NE, ScoreKind::softmax));
  CHECK(at::allclose(larger.logit_NE, 10 * moved.logit_NE));
  CHECK_FALSE(at::equal(moved.logit_NE.argmax(1), logit_NE.argmax(1)));
}

TEST_CASE("scores are those of the disturbed logits, for every score function") {
  for (const auto kind : {ScoreKind::softmax, ScoreKind::sigmoid, ScoreKind::relu}) {
    const auto moved = disturbed(scores_of(logits(1), kind));
    CHECK(at::allclose(moved.score_NE, score_function(moved.logit_NE, kind), 1e-9, 1e-12));
    CHECK(at::equal(moved.score_NE, disturbed(scores_of(logits(1), kind)).score_NE));
  }
}

TEST_CASE("scores without logits move as those of their logits would") {
  auto scores = scores_of(logits(1), ScoreKind::softmax);
  scores.logit_NE.reset();
  CHECK(at::allclose(disturbed(scores).score_NE, disturbed(scores_of(logits(1), ScoreKind::softmax)).score_NE, 1e-9,
                     1e-12));
  Scores none{.n_tokens = N, .n_experts = E};
  disturb(none, kNoise, Random(7));
  CHECK_FALSE(none.score_NE.defined());
}

TEST_CASE("closed experts stay closed and do not count for the spread") {
  auto logit_NE = logits(1);
  logit_NE.slice(1, 0, 2).fill_(kClosedLogit);
  auto scores = scores_of(logit_NE, ScoreKind::softmax);
  scores.open_NE = logit_NE.gt(kClosedLogit);
  const auto moved = disturbed(scores);
  CHECK(at::equal(moved.logit_NE.slice(1, 0, 2), logit_NE.slice(1, 0, 2)));
  CHECK(moved.score_NE.slice(1, 0, 2).max().item<double>() < 1e-12);
  CHECK(at::allclose(moved.score_NE.sum(1), at::ones({N}, at::kDouble)));
  const auto open_NE = logit_NE.slice(1, 2);
  const auto unit_NE = (moved.logit_NE.slice(1, 2) - open_NE) / spread_of(open_NE);
  CHECK(unit_NE.std().item<double>() == doctest::Approx(kNoise).epsilon(0.02));
}
