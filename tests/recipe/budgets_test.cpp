// Groups of about equal work: how wide they may be, who is joined first, pairs that stay together.
#include "collegium/recipe/budgets.h"

#include <doctest/doctest.h>

namespace {

using namespace collegium;
using Groups = std::vector<size_t>;

std::vector<Work> works(std::initializer_list<double> flops) {
  std::vector<Work> out;
  for (const auto f : flops) out.push_back({f, 7});
  return out;
}

}  // namespace

TEST_CASE("budgets: groups are numbered by work and no wider than said") {
  CHECK(budget_groups(works({}), {}) == Groups{});
  CHECK(budget_groups(works({3}), {}) == Groups{0});
  CHECK(budget_groups(works({300, 100, 90, 110, 101}), {}) == Groups{1, 0, 0, 0, 0});
  CHECK(budget_groups(works({100, 123}), {}) == Groups{0, 1});
  CHECK(budget_groups(works({100, 104}), {}, 0.01) == Groups{0, 1});
  // A row of small steps is no chain: 100 to 130 is too wide for one group.
  const auto chain = budget_groups(works({100, 108, 116, 124, 130}), {});
  CHECK(chain.front() == 0);
  CHECK(chain.back() == 1);
}

TEST_CASE("budgets: the nearest are joined first") {
  // 120 is near enough to 100, but nearer to 125.
  CHECK(budget_groups(works({100, 120, 125}), {}) == Groups{0, 1, 1});
}

TEST_CASE("budgets: active parameters count as much as operations") {
  const std::vector<Work> same_flops = {{100, 10}, {100, 20}, {101, 10.1}};
  CHECK(budget_groups(same_flops, {}) == Groups{0, 1, 0});
}

TEST_CASE("budgets: pairs stay together") {
  const std::vector<std::pair<size_t, size_t>> pairs = {{0, 1}, {3, 2}, {0, 1}};
  CHECK(budget_groups(works({100, 140, 400, 390}), pairs) == Groups{0, 0, 1, 1});
  // The nearest would be 1 and 2.
  const std::vector<std::pair<size_t, size_t>> first = {{0, 1}};
  CHECK(budget_groups(works({100, 120, 125}), first) == Groups{0, 0, 1});
}
