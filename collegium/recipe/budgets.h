// Whose losses may be compared: those that do about equal work with about as many active parameters.
#pragma once
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace collegium {

struct Work {
  double flops_per_token = 0;    ///< forward
  double parameters_active = 0;  ///< that one token meets
};

/// Group of each, numbered from the least work on. In a group neither number is further from the middle than the share
/// `within` (0.1: the largest is at most 1.1 / 0.9 of the least), and groups are joined nearest first. `together`:
/// indices of two that are in one group from the start, however far they are apart.
std::vector<size_t> budget_groups(std::span<const Work> works, std::span<const std::pair<size_t, size_t>> together,
                                  double within = 0.1);

}  // namespace collegium
