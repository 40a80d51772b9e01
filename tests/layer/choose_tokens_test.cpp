// Experts that choose tokens: both choices by their definition, the second one in pieces, too.
//
// E experts, B sequences, T tokens each.
#include "collegium/layer/choose_tokens.h"

#include <numeric>

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

constexpr int64_t kE = 3, kB = 2, kT = 40;

// Few different values, so that there are ties.
Tensor scores(uint64_t seed, bool has_ties) {
  const auto score = numbers(Random(seed), {kE, kB, kT}, 0, 1, at::kDouble);
  return has_ties ? (score * 6).floor() / 6 : score;
}

// The definitions, token by token.
std::vector<bool> by_hand(TokenChoice choice, const std::vector<double>& score, const std::vector<int64_t>& real,
                          const TokenQuota& quota) {
  const auto T = score.size();
  std::vector<bool> out(T);
  const auto rank = [&](size_t t, size_t end) {
    int64_t above = 0;
    for (size_t s = 0; s < end; ++s) above += real[s] && (score[s] > score[t] || (score[s] == score[t] && s < t));
    return above;
  };
  int64_t n = 0, taken = 0;
  for (size_t t = 0; t < T; ++t) n += real[t];
  const auto all = quota.of(n);
  n = 0;
  for (size_t t = 0; t < T; ++t) {
    if (!real[t]) continue;
    ++n;
    out[t] = choice == TokenChoice::sequence ? rank(t, T) < all : rank(t, t) < quota.of(n) && taken < quota.of(n);
    taken += out[t];
  }
  return out;
}

}  // namespace

TEST_CASE("quotas: one in so many, at least some, at most all") {
  const TokenQuota quota{.sparsity = 8, .least = 2};
  CHECK(quota.of(0) == 0);
  CHECK(quota.of(1) == 1);
  CHECK(quota.of(23) == 2);
  CHECK(quota.of(24) == 3);
  CHECK(quota.of(128) == 16);
  CHECK(TokenQuota{.sparsity = 1}.of(7) == 7);
  CHECK(TokenQuota{.sparsity = 1 / 0.3}.of(10) == 3);
}

TEST_CASE("chosen tokens are those of the definition, with ties and masks") {
  for (const auto choice : {TokenChoice::sequence, TokenChoice::so_far})
    for (const bool has_ties : {false, true})
      for (const bool has_mask : {false, true})
        for (const double sparsity : {1.0, 4.0, 7.0}) {
          CAPTURE(has_ties);
          CAPTURE(has_mask);
          CAPTURE(sparsity);
          const TokenQuota quota{.sparsity = sparsity, .least = 2};
          const auto score = scores(4, has_ties);
          const auto mask_BT = has_mask ? ids(Random(5), kB * kT, 4).gt(0).reshape({kB, kT}) : Tensor();
          const auto chosen = choose_tokens(choice, score, mask_BT, quota);
          REQUIRE((chosen.sizes() == at::IntArrayRef{kE, kB, kT}));
          for (int64_t e = 0; e < kE; ++e)
            for (int64_t b = 0; b < kB; ++b) {
              const auto real = has_mask ? ints(mask_BT[b]) : std::vector<int64_t>(kT, 1);
              const auto wanted = by_hand(choice, reals(score[e][b]), real, quota);
              const auto got = ints(chosen[e][b]);
              for (size_t t = 0; t < wanted.size(); ++t) CHECK(got[t] == wanted[t]);
              CHECK(chosen[e][b].sum().item<int64_t>() <=
                    quota.of(std::accumulate(real.begin(), real.end(), int64_t{0})));
            }
        }
}

TEST_CASE("the best so far are the same in pieces, and never wait for a later token") {
  const TokenQuota quota{.sparsity = 5, .least = 2};
  for (const bool has_ties : {false, true}) {
    const auto score = scores(6, has_ties);
    const auto whole = choose_tokens(TokenChoice::so_far, score, {}, quota);
    for (const int64_t cut : {1, 7, 39}) {
      CAPTURE(cut);
      const auto first = choose_tokens(TokenChoice::so_far, score.slice(2, 0, cut), {}, quota);
      const auto rest = choose_more(score.slice(2, cut), score.slice(2, 0, cut), first.sum(2), quota);
      CHECK(at::equal(at::cat({first, rest}, 2), whole));
    }
  }
}

TEST_CASE("rising scores fill the quota at once as it grows, falling ones leave it to the first") {
  const TokenQuota quota{.sparsity = 10, .least = 2};
  const auto rising = at::arange(40, at::kDouble).view({1, 1, 40});
  CHECK(ints(choose_tokens(TokenChoice::so_far, rising, {}, quota).nonzero().select(1, 2)) ==
        std::vector<int64_t>{0, 1, 29, 39});
  CHECK(ints(choose_tokens(TokenChoice::so_far, -rising + 40, {}, quota).nonzero().select(1, 2)) ==
        std::vector<int64_t>{0, 1});
  CHECK(ints(choose_tokens(TokenChoice::sequence, rising, {}, quota).nonzero().select(1, 2)) ==
        std::vector<int64_t>{36, 37, 38, 39});
}

TEST_CASE("places of the chosen, in order of the text") {
  const auto chosen = at::tensor(std::vector<int64_t>{0, 1, 0, 1, 1, 0, 0, 0}).to(at::kBool).reshape({1, 2, 4});
  const auto taken = places_of(chosen);
  CHECK(ints(taken.count_EB) == std::vector<int64_t>{2, 1});
  CHECK(ints(taken.live_EBK) == std::vector<int64_t>{1, 1, 1, 0});
  CHECK(ints(taken.index_EBK[0][0]) == std::vector<int64_t>{1, 3});
  CHECK(taken.index_EBK[0][1][0].item<int64_t>() == 0);
  const auto none = places_of(at::zeros({2, 1, 3}, at::kBool));
  CHECK(none.index_EBK.size(2) == 0);
  CHECK(places_of(at::zeros({2, 0, 3}, at::kBool)).index_EBK.size(2) == 0);
}
