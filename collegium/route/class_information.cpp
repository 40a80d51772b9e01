#include "collegium/route/class_information.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace collegium::route {
namespace {

// Of shares that sum to one.
double entropy_of_shares(const Tensor& share) {
  return -at::special_xlogy(share, share).sum().item<double>();
}

}  // namespace

std::optional<double> class_information(const Tensor& count_CE) {
  if (count_CE.sum(1).gt(0).sum().item<int64_t>() < 2) return {};
  const auto count = count_CE.to(at::kDouble), share_CE = count / count.sum();
  const auto classes = entropy_of_shares(share_CE.sum(1));
  const auto shared = classes + entropy_of_shares(share_CE.sum(0)) - entropy_of_shares(share_CE);
  return std::clamp(shared / classes, 0.0, 1.0);
}

}  // namespace collegium::route
