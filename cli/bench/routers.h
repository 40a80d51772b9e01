// Routers stage by stage, beside what transformers' top-k router does, called from C++.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/bench/turns.h"

namespace collegium::cli {

struct RouterTimes {
  std::string router;
  int64_t experts, k, tokens;
  std::vector<Timed> stages;  ///< scorer, selector, decision, capacity, gate, balancers: each on the others' results
  Timed whole;                ///< Router::route, evaluating
  Timed rival;                ///< softmax, top-k, normalised: indices and weights only
};

struct RouterSize {
  int64_t tokens, experts, k;
};

/// The routers whose stages are timed: all that can have the size and need nothing of their layer. One without a choice
/// of k stands among those of k = 1.
std::vector<std::string_view> bench_routers(const RouterSize& size);

std::span<const RouterSize> router_sizes(bool quick);

RouterTimes time_router(std::string_view name, const RouterSize& size, int64_t turns, BenchClock clock,
                        const std::function<bool()>& after_turn);

}  // namespace collegium::cli
