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

/// Routers whose stages are timed.
std::span<const std::string_view> bench_routers();

struct RouterSize {
  int64_t tokens, experts, k;
};
std::span<const RouterSize> router_sizes(bool quick);

RouterTimes time_router(std::string_view name, const RouterSize& size, int64_t turns, BenchClock clock,
                        const std::function<bool()>& after_turn);

}  // namespace collegium::cli
