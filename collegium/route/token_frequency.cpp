#include "collegium/route/token_frequency.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace collegium::route {

at::Tensor frequent_ids(const at::Tensor& count_V, double share) {
  const auto counts = count_V.cpu().contiguous();
  const auto* count = counts.const_data_ptr<int64_t>();
  std::vector<int64_t> by_count(static_cast<size_t>(counts.size(0)));
  std::iota(by_count.begin(), by_count.end(), 0);
  std::stable_sort(by_count.begin(), by_count.end(), [&](int64_t a, int64_t b) { return count[a] > count[b]; });
  const auto wanted = share * counts.sum().item<double>();
  auto out = at::zeros({counts.size(0)}, at::TensorOptions().dtype(at::kBool));
  auto* is_frequent = out.mutable_data_ptr<bool>();
  double seen = 0;
  for (const auto id : by_count) {
    if (seen >= wanted) break;
    is_frequent[id] = true;
    seen += static_cast<double>(count[id]);
  }
  return out;
}

}  // namespace collegium::route
