// Units as classifiers of a board: scores of units whose meaning is known.
//
// P positions, F hidden units, G properties.
#include "collegium/recipe/board_probe.h"

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::test;

constexpr int64_t kPositions = 400, kProperties = 12;

// Properties that hold now and then, independent of each other.
Tensor holds(uint64_t seed) {
  return numbers(Random(seed), {kPositions, kProperties}, 0, 1).lt(0.3);
}

// Units that say a property each, at half their strength where it does not hold, and noise.
Tensor telling(const Tensor& holds_PG) {
  return holds_PG.to(at::kFloat) + 0.5;
}
Tensor noise(uint64_t seed) {
  return numbers(Random(seed), {kPositions, 30}, -1, 1);
}

}  // namespace

TEST_CASE("boards: units that tell the truth reach one, noise does not") {
  const auto fit = holds(1), test = holds(2);
  const auto good = score_units(at::cat({telling(fit), noise(3)}, 1), fit, at::cat({telling(test), noise(4)}, 1), test);
  CHECK(good.n_properties == kProperties);
  CHECK(good.coverage == doctest::Approx(1));
  CHECK(good.reconstruction == doctest::Approx(1));
  const auto bad = score_units(noise(3), fit, noise(4), test);
  CHECK(bad.coverage < 0.55);  // "always" alone reaches 2 * 0.3 / 1.3 = 0.46
  CHECK(bad.reconstruction < 0.1);
}

TEST_CASE("boards: what was chosen by chance does not count on new games") {
  const auto fit = holds(1), test = holds(2);
  // A unit that is right about the first games only.
  const auto lucky =
      score_units(at::cat({telling(fit), noise(3)}, 1), fit, at::cat({telling(holds(9)), noise(4)}, 1), test);
  CHECK(lucky.coverage < 0.45);
}

TEST_CASE("boards: a mixture of two properties in one unit is covered less than units of their own") {
  const auto fit = holds(1), test = holds(2);
  const auto mixed = [](const Tensor& holds_PG) {
    const auto h = holds_PG.to(at::kFloat);
    return (h.slice(1, 0, 6) + h.slice(1, 6) + 0.5);
  };
  const auto both = score_units(mixed(fit), fit, mixed(test), test);
  CHECK(both.coverage > 0.6);
  CHECK(both.coverage < 0.8);
  CHECK(both.reconstruction < 0.5);
}

TEST_CASE("boards: properties that nearly always hold, or never, are left out") {
  auto fit = holds(1).clone(), test = holds(2).clone();
  fit.select(1, 0).fill_(true), test.select(1, 0).fill_(true);
  fit.select(1, 1).fill_(false), test.select(1, 1).fill_(false);
  CHECK(score_units(telling(fit), fit, telling(test), test).n_properties == kProperties - 2);
}
