// Rectify-Router: nothing dropped on any number of devices, no slot empty while there are tokens for it, everything
// conserved, and both repairs against a plain re-computation.
//
// N tokens, D model width, E experts.
#include <map>

#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kWidth = 4;

std::unique_ptr<Router> rectified(double factor, int64_t n_devices, int64_t E, int64_t k = 1, bool rectify = true,
                                  bool fill = true) {
  auto router = make_router(
      {.name = "rectified",
       .fields = table(
           {{"k", k}, {"capacity_factor", factor}, {"n_devices", n_devices}, {"rectify", rectify}, {"fill", fill}})},
      kWidth, E, 3, at::kDouble);
  scale_parameters(*router, 6);
  return router;
}

// Tokens that lean to some experts, so that some overflow and some stay empty.
Tensor leaning(int64_t N) {
  auto x_ND = numbers(Random(1), {N, kWidth}, -1, 1, at::kDouble);
  x_ND.select(1, 0).add_(1);
  return x_ND;
}

// The rule written down plainly for top-1: (token, expert) -> wanted (-1 = fill-in); drops are not in it.
std::map<std::pair<int64_t, int64_t>, int64_t> by_hand(const Tensor& score_NE, const std::vector<int64_t>& real,
                                                       int64_t slots, int64_t n_devices) {
  const auto E = score_NE.size(1), M = static_cast<int64_t>(real.size());
  const auto s = reals(score_NE);
  const auto score = [&](int64_t n, int64_t e) { return s[static_cast<size_t>(n * E + e)]; };
  std::map<std::pair<int64_t, int64_t>, int64_t> out;
  std::vector<int64_t> load(static_cast<size_t>(E));
  const auto put = [&](int64_t n, int64_t e, int64_t wanted) { out[{n, e}] = wanted, ++load[static_cast<size_t>(e)]; };
  std::vector<std::pair<int64_t, int64_t>> late;
  for (int64_t i = 0; i < M; ++i) {
    const auto n = real[static_cast<size_t>(i)];
    int64_t best = 0;
    for (int64_t e = 1; e < E; ++e)
      if (score(n, e) > score(n, best)) best = e;
    if (load[static_cast<size_t>(best)] < slots)
      put(n, best, best);
    else
      late.emplace_back(i, best);
  }
  for (const auto& [i, wanted] : late) {
    const auto n = real[static_cast<size_t>(i)];
    int64_t best = -1;
    for (const bool with_room : {true, false})
      for (int64_t e = 0; e < E && (with_room || best < 0 || load[static_cast<size_t>(best)] >= slots); ++e)
        if (e / (E / n_devices) == i * n_devices / M && (!with_room || load[static_cast<size_t>(e)] < slots))
          if (best < 0 || score(n, e) > score(n, best)) best = e;
    put(n, best, wanted);
  }
  for (int64_t e = 0; e < E; ++e)
    while (load[static_cast<size_t>(e)] < std::min(slots, M)) {
      int64_t best = -1;
      for (const auto n : real)
        if (!out.count({n, e}) && (best < 0 || score(n, e) > score(best, e))) best = n;
      put(best, e, -1);
    }
  return out;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "both repairs do what the rule says, with devices and padding") {
  for (const int64_t N : {1, 2, 7, 24, 61})
    for (const int64_t n_devices : {1, 2, 3})
      for (const double factor : {0.4, 1.0, 2.0})
        for (const bool has_mask : {false, true}) {
          const int64_t E = 6;
          CAPTURE(N);
          CAPTURE(n_devices);
          CAPTURE(factor);
          CAPTURE(has_mask);
          auto context = context_of(N);
          std::vector<int64_t> real;
          for (int64_t n = 0; n < N; ++n)
            if (!has_mask || n % 5 != 3) real.push_back(n);
          if (has_mask) context.mask_N = at::arange(N).remainder(5).ne(3);
          const auto routing = rectified(factor, n_devices, E)->route(leaning(N), context);
          const auto& d = routing.decision;
          check_decision(d, N, E, context.mask_N);
          const auto M = static_cast<int64_t>(real.size());
          const auto slots =
              std::max<int64_t>(1, static_cast<int64_t>(std::ceil(factor * static_cast<double>(M) / E - 1e-9)));
          const auto wanted = by_hand(routing.scores.score_NE, real, slots, n_devices);
          std::map<std::pair<int64_t, int64_t>, int64_t> got;
          const auto token = ints(d.token_R()), expert = ints(d.expert_R()), asked = ints(d.wanted_R());
          for (size_t r = 0; r < token.size(); ++r) got[{token[r], expert[r]}] = asked[r];
          CHECK(got.size() == token.size());  // a token meets an expert at most once
          CHECK(got == wanted);
          // No slot is empty, every token asked exactly once, and none was dropped.
          for (const auto load : ints(d.kept_E())) CHECK(load >= std::min(slots, M));
          CHECK(d.n_asked() == M);
          CHECK(d.n_dropped() == 0);
          CHECK(d.n_kept() - d.n_filled() == M);
        }
}

TEST_CASE_FIXTURE(OneThread, "no token is dropped on any number of devices, whatever all of them want") {
  for (const int64_t N : {5, 24, 100})
    for (const int64_t n_devices : {1, 2, 3, 6}) {
      auto x_ND = leaning(N);
      x_ND.select(1, 0).fill_(3);
      CHECK(rectified(1.0, n_devices, 6)->route(x_ND, context_of(N)).decision.n_dropped() == 0);
      CHECK(rectified(0.3, n_devices, 6)->route(x_ND, context_of(N)).decision.n_dropped() == 0);
      CHECK(rectified(1.0, n_devices, 6, 1, false)->route(x_ND, context_of(N)).decision.n_dropped() > 0);
    }
}

TEST_CASE_FIXTURE(OneThread, "with room for all, one device holds every expert to its slots") {
  for (const auto load : ints(rectified(1.0, 1, 6)->route(leaning(60), context_of(60)).decision.kept_E()))
    CHECK(load == 10);
}

TEST_CASE_FIXTURE(OneThread, "each repair alone: rectification without fill-ins, fill-ins without rectification") {
  const int64_t N = 30, E = 6;
  const auto moved = rectified(1.2, 2, E, 1, true, false)->route(leaning(N), context_of(N)).decision;
  CHECK(moved.n_filled() == 0);
  const auto token = ints(moved.token_R()), expert = ints(moved.expert_R()), wanted = ints(moved.wanted_R());
  int64_t n_moved = 0;
  for (size_t r = 0; r < token.size(); ++r) {
    if (wanted[r] == expert[r]) continue;
    ++n_moved;
    CHECK(expert[r] / (E / 2) == token[r] * 2 / N);  // on the token's own device
  }
  CHECK(n_moved > 0);
  const auto filled = rectified(1.2, 2, E, 1, false, true)->route(leaning(N), context_of(N)).decision;
  CHECK(filled.n_dropped() > 0);
  CHECK(filled.n_filled() > 0);
  for (const auto load : ints(filled.kept_E())) CHECK(load == 6);
  // Without either it is the plain limit.
  const auto plain = rectified(1.2, 2, E, 1, false, false)->route(leaning(N), context_of(N)).decision;
  CHECK_FALSE(plain.is_rerouted());
  CHECK(at::equal(plain.asked_E(), filled.asked_E()));
  CHECK(at::equal(plain.asked_E(), moved.asked_E()));
}

TEST_CASE_FIXTURE(OneThread, "two choices a token: conserved, each expert met once") {
  const int64_t N = 40, E = 6;
  const auto d = rectified(0.9, 2, E, 2)->route(leaning(N), context_of(N)).decision;
  check_decision(d, N, E);
  CHECK(d.n_asked() == 2 * N);
  CHECK(d.n_dropped() == 0);
  for (const auto load : ints(d.kept_E())) CHECK(load >= 12);
}

TEST_CASE_FIXTURE(OneThread, "moved and filled-in experts weigh their own scores, with gradient") {
  const int64_t N = 6, E = 3;
  const auto router = rectified(1.0, 1, E);
  auto x_ND = leaning(N).requires_grad_(true);
  const auto routing = router->route(x_ND, context_of(N));
  const auto& d = routing.decision;
  CHECK(d.is_rerouted());
  CHECK(same_bits(d.gate_R().detach(), routing.scores.score_NE.index({d.token_R(), d.expert_R()}).detach()));
  const auto report = check_gradients(
      [&] {
        const auto r = router->route(x_ND, context_of(N));
        return Evaluated{r.decision.gate_R(), choice_of(r.decision)};
      },
      {{"x", x_ND}, {"weight", *parameters_of(*router).front().tensor}});
  CHECK(report.is_smooth);
  CHECK_MESSAGE(report.worst < 1e-7, report.where);
  CHECK(report.largest > 1e-2);
}
