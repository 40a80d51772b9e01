#include "collegium/recipe/budgets.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace collegium {
namespace {

struct Budget {
  std::vector<size_t> members;
  Work least, most;
};

Budget joined(const Budget& a, const Budget& b) {
  Budget out = a;
  out.members.insert(out.members.end(), b.members.begin(), b.members.end());
  out.least = {std::min(a.least.flops_per_token, b.least.flops_per_token),
               std::min(a.least.parameters_active, b.least.parameters_active)};
  out.most = {std::max(a.most.flops_per_token, b.most.flops_per_token),
              std::max(a.most.parameters_active, b.most.parameters_active)};
  return out;
}

double ratio(const Budget& b) {
  return std::max(b.most.flops_per_token / b.least.flops_per_token,
                  b.most.parameters_active / b.least.parameters_active);
}

}  // namespace

std::vector<size_t> budget_groups(std::span<const Work> works, std::span<const std::pair<size_t, size_t>> together,
                                  double within) {
  std::vector<Budget> budgets;
  for (size_t i = 0; i < works.size(); ++i) budgets.push_back({{i}, works[i], works[i]});
  const auto join = [&](size_t a, size_t b) {
    budgets[a] = joined(budgets[a], budgets[b]);
    budgets.erase(budgets.begin() + static_cast<std::ptrdiff_t>(b));
  };
  const auto home_of = [&](size_t member) {
    const auto at = std::find_if(budgets.begin(), budgets.end(), [&](const Budget& b) {
      return std::find(b.members.begin(), b.members.end(), member) != b.members.end();
    });
    return static_cast<size_t>(at - budgets.begin());
  };
  for (const auto& [a, b] : together)
    if (home_of(a) != home_of(b)) join(home_of(a), home_of(b));
  const auto limit = (1 + within) / (1 - within);
  for (;;) {
    double best = std::numeric_limits<double>::infinity();
    std::pair<size_t, size_t> nearest;
    for (size_t a = 0; a < budgets.size(); ++a)
      for (size_t b = a + 1; b < budgets.size(); ++b)
        if (const auto r = ratio(joined(budgets[a], budgets[b])); r < best) best = r, nearest = {a, b};
    if (best > limit) break;
    join(nearest.first, nearest.second);
  }
  std::sort(budgets.begin(), budgets.end(), [](const Budget& a, const Budget& b) {
    return std::pair(a.least.flops_per_token, a.least.parameters_active) <
           std::pair(b.least.flops_per_token, b.least.parameters_active);
  });
  std::vector<size_t> out(works.size());
  for (size_t g = 0; g < budgets.size(); ++g)
    for (const auto member : budgets[g].members) out[member] = g;
  return out;
}

}  // namespace collegium
