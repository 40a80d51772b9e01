// The stable counting sort that brings ids into the order of their experts, for this room's files.
//
// Legend: n ids, E experts.
#pragma once
#include <cstdint>
#include <vector>

namespace collegium::kernels {

/// Calls place(i, row) for each i in [0, n) whose works(id[i]) holds, i ascending; rows of expert e are offset[e] to
/// offset[e + 1]. `offset` has E + 1 zeros and is filled; ids that work are in [0, E). Returns the number of rows.
template <class Id, class Works, class Place>
int64_t counting_sort(const Id* id, int64_t n, int64_t n_experts, int64_t* offset, const Works& works,
                      const Place& place) {
  for (int64_t i = 0; i < n; ++i)
    if (works(id[i])) ++offset[id[i] + 1];
  for (int64_t e = 0; e < n_experts; ++e) offset[e + 1] += offset[e];
  std::vector<int64_t> next(offset, offset + n_experts);
  for (int64_t i = 0; i < n; ++i)
    if (works(id[i])) place(i, next[static_cast<size_t>(id[i])]++);
  return offset[n_experts];
}

/// next[c * E + e]: how many ids of chunk c are e. Makes it the row of the first of them, and fills offset [E + 1].
inline void place_chunks(int64_t* next, int64_t n_chunks, int64_t n_experts, int64_t* offset) {
  int64_t row = 0;
  for (int64_t e = 0; e < n_experts; ++e) {
    offset[e] = row;
    for (int64_t c = 0; c < n_chunks; ++c) {
      const auto count = next[c * n_experts + e];
      next[c * n_experts + e] = row;
      row += count;
    }
  }
  offset[n_experts] = row;
}

}  // namespace collegium::kernels
