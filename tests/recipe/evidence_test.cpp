// Verdicts: paired by seed, with and without a margin.
#include "collegium/recipe/evidence.h"

#include "tests/support/routing.h"

namespace {

using namespace collegium;

Verdict judged(Relation relation, double value, const std::vector<double>& ours,
               const std::vector<double>& baseline = {}) {
  return judge({.measure = "valid_bpb", .relation = relation, .value = value, .tolerance = 0.1}, ours, baseline);
}

}  // namespace

TEST_CASE("a comparison is held when better on every seed, failed when worse on every seed, else not shown") {
  using enum Relation;
  CHECK(judged(below_baseline, 0, {1, 2}, {1.1, 2.1}) == Verdict::held);
  CHECK(judged(below_baseline, 0, {1, 2}, {1.1, 1.9}) == Verdict::not_shown);
  CHECK(judged(below_baseline, 0, {1, 2}, {1, 2}) == Verdict::not_shown);
  CHECK(judged(below_baseline, 0, {1, 2}, {0.9, 1.9}) == Verdict::failed);
  CHECK(judged(above_baseline, 0, {1, 2}, {0.9, 1.9}) == Verdict::held);
  CHECK(judged(above_baseline, 0, {1, 2}, {1.1, 2.1}) == Verdict::failed);
  CHECK_THROWS_AS(judged(below_baseline, 0, {1, 2}, {1}), Error);
}

TEST_CASE("with a margin ours must be better by it, or may be worse by it") {
  using enum Relation;
  CHECK(judged(below_baseline, 0.5, {1, 2}, {1.6, 2.6}) == Verdict::held);
  CHECK(judged(below_baseline, 0.5, {1, 2}, {1.4, 2.4}) == Verdict::not_shown);
  CHECK(judged(below_baseline, 0.5, {1, 2}, {0.9, 1.9}) == Verdict::failed);
  CHECK(judged(below_baseline, -0.5, {1, 2}, {0.6, 1.6}) == Verdict::held);
  CHECK(judged(below_baseline, -0.5, {1, 2}, {0.6, 1.4}) == Verdict::not_shown);
  CHECK(judged(below_baseline, -0.5, {1, 2}, {0.4, 1.4}) == Verdict::failed);
  CHECK(margin_text({.relation = below_baseline}).empty());
  CHECK(margin_text({.relation = at_most, .value = 3}).empty());
  CHECK(margin_text({.relation = above_baseline, .value = -0.5}) == ", may be worse by 0.5");
  CHECK(margin_text({.relation = above_baseline, .value = 0.5}) == ", must be better by 0.5");
}

TEST_CASE("a relative margin is a share of the baseline's value") {
  const Expectation a_tenth{
      .measure = "tokens_per_second", .relation = Relation::above_baseline, .value = -0.1, .relative = true};
  CHECK(judge(a_tenth, {95, 950}, {100, 1000}) == Verdict::held);
  CHECK(judge(a_tenth, {95, 850}, {100, 1000}) == Verdict::not_shown);
  CHECK(judge(a_tenth, {85, 850}, {100, 1000}) == Verdict::failed);
  CHECK(margin_text(a_tenth) == ", may be worse by 10 %");
}

TEST_CASE("a property must hold on every seed") {
  using enum Relation;
  CHECK(judged(equals, 2, {1.95, 2.05}) == Verdict::held);
  CHECK(judged(equals, 2, {1.95, 2.2}) == Verdict::failed);
  CHECK(judged(at_most, 2, {1, 2}) == Verdict::held);
  CHECK(judged(at_most, 2, {1, 2.1}) == Verdict::failed);
  CHECK(judged(at_least, 2, {2, 3}) == Verdict::held);
  CHECK(judged(at_least, 2, {1.9, 3}) == Verdict::failed);
}
