#include "collegium/layer/choose_tokens.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "collegium/base/error.h"

namespace collegium::layer {
namespace {

Tensor choose_of_all(const Tensor& score_EBT, const Tensor& mask_BT, const TokenQuota& quota) {
  const auto E = score_EBT.size(0), B = score_EBT.size(1), T = score_EBT.size(2);
  auto score = score_EBT.detach();
  const auto longs = score.options().dtype(at::kLong);
  auto quota_B1 = at::full({B, 1}, quota.of(T), longs);
  if (mask_BT.defined()) {
    score = score.masked_fill(mask_BT.logical_not(), -1);  // scores are not negative: real tokens come first
    const auto real_B = mask_BT.sum(1).to(at::kCPU).contiguous();
    std::vector<int64_t> of_B(static_cast<size_t>(B));
    for (int64_t b = 0; b < B; ++b) of_B[static_cast<size_t>(b)] = quota.of(real_B.const_data_ptr<int64_t>()[b]);
    quota_B1 = at::tensor(of_B, at::kLong).to(longs.device()).unsqueeze(1);
  }
  const auto order_EBT = std::get<1>(score.sort(/*stable=*/true, 2, /*descending=*/true));
  const auto taken_EBT = at::arange(T, longs).lt(quota_B1).expand({E, B, T});
  return at::zeros({E, B, T}, longs.dtype(at::kBool)).scatter(2, order_EBT, taken_EBT);
}

Tensor choose_so_far(const Tensor& score_EBT, const Tensor& mask_BT, const Tensor& past_score_EBP,
                     const Tensor& count_EB, const TokenQuota& quota) {
  const auto E = score_EBT.size(0), B = score_EBT.size(1), T = score_EBT.size(2);
  const auto plain = [](const Tensor& t, at::ScalarType type) { return t.detach().to(at::kCPU, type).contiguous(); };
  const auto score = plain(score_EBT, at::kDouble);
  const auto past = past_score_EBP.defined() ? plain(past_score_EBP, at::kDouble) : Tensor();
  const auto count = count_EB.defined() ? plain(count_EB, at::kLong) : Tensor();
  const auto mask = mask_BT.defined() ? plain(mask_BT, at::kBool) : Tensor();
  const auto P = past.defined() ? past.size(2) : 0;
  auto chosen = at::zeros({E, B, T}, at::TensorOptions().dtype(at::kBool));
  auto* out = chosen.mutable_data_ptr<bool>();
  at::parallel_for(0, E * B, 4, [&](int64_t begin, int64_t end) {
    std::vector<double> best;  // all scores so far, the highest first
    for (int64_t row = begin; row < end; ++row) {
      best.clear();
      best.reserve(static_cast<size_t>(P + T));
      if (P > 0) {
        best.assign(past.const_data_ptr<double>() + row * P, past.const_data_ptr<double>() + (row + 1) * P);
        std::sort(best.begin(), best.end(), std::greater<>());
      }
      auto taken = count.defined() ? count.const_data_ptr<int64_t>()[row] : 0;
      const auto* s = score.const_data_ptr<double>() + row * T;
      const auto* real = mask.defined() ? mask.const_data_ptr<bool>() + row % B * T : nullptr;
      for (int64_t t = 0; t < T; ++t) {
        if (real && !real[t]) continue;
        // After its equals: the earlier token wins a tie.
        const auto place = std::upper_bound(best.begin(), best.end(), s[t], std::greater<>());
        const auto rank = place - best.begin();
        best.insert(place, s[t]);
        const auto most = quota.of(static_cast<int64_t>(best.size()));
        const bool is_taken = rank < most && taken < most;
        out[row * T + t] = is_taken, taken += is_taken;
      }
    }
  });
  return chosen.to(score_EBT.device());
}

}  // namespace

int64_t TokenQuota::of(int64_t n) const {
  const auto share = static_cast<int64_t>(std::floor(static_cast<double>(n) / sparsity + 1e-9));
  return std::min(n, std::max(least, share));
}

std::span<const std::string_view> enum_names(TokenChoice) {
  static constexpr std::string_view kNames[] = {"sequence", "so_far"};
  return kNames;
}

Tensor choose_tokens(TokenChoice choice, const Tensor& score_EBT, const Tensor& mask_BT, const TokenQuota& quota) {
  return choice == TokenChoice::sequence ? choose_of_all(score_EBT, mask_BT, quota)
                                         : choose_so_far(score_EBT, mask_BT, {}, {}, quota);
}

Tensor choose_more(const Tensor& score_EBT, const Tensor& past_score_EBP, const Tensor& count_EB,
                   const TokenQuota& quota) {
  return choose_so_far(score_EBT, {}, past_score_EBP, count_EB, quota);
}

TakenTokens places_of(const Tensor& chosen_EBT) {
  TakenTokens out;
  out.count_EB = chosen_EBT.sum(2);
  const auto K = chosen_EBT.numel() > 0 ? out.count_EB.max().item<int64_t>() : 0;
  out.index_EBK = chosen_EBT.logical_not().to(at::kByte).argsort(/*stable=*/true, 2).slice(2, 0, K);
  out.live_EBK = at::arange(K, out.count_EB.options()).lt(out.count_EB.unsqueeze(2));
  return out;
}

}  // namespace collegium::layer
