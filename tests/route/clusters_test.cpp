// Expert clusters: the variance constraint by its formula, and dropout that leaves each cluster someone.
//
// N tokens, D model width, E experts.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

// Share of the variance that lies inside clusters, by loops over tokens and experts.
double plain_share(const std::vector<double>& p, size_t N, size_t E, size_t clusters, const std::vector<bool>& real) {
  double inside = 0, whole = 0;
  for (size_t n = 0; n < N; ++n) {
    if (!real[n]) continue;
    double mean = 0;
    for (size_t e = 0; e < E; ++e) mean += p[n * E + e] / static_cast<double>(E);
    for (size_t c = 0; c < clusters; ++c) {
      const auto begin = c * E / clusters, end = (c + 1) * E / clusters;
      double center = 0;
      for (size_t e = begin; e < end; ++e) center += p[n * E + e] / static_cast<double>(end - begin);
      for (size_t e = begin; e < end; ++e) {
        inside += std::pow(p[n * E + e] - center, 2);
        whole += std::pow(p[n * E + e] - mean, 2);
      }
    }
  }
  return inside / whole;
}

Named clusters_of(int64_t clusters, double dropout) {
  return {
      .name = "clusters",
      .fields = table({{"clusters", clusters}, {"dropout", dropout}, {"balance_loss", 0.0}, {"variance_loss", 0.5}})};
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "clusters: the variance constraint is its formula, with derivatives") {
  const int64_t N = 9, D = 5;
  for (const auto& [E, clusters] : std::vector<std::pair<int64_t, int64_t>>{{6, 2}, {6, 3}, {7, 3}, {4, 1}, {4, 4}}) {
    CAPTURE(E);
    CAPTURE(clusters);
    const auto router = make_router(clusters_of(clusters, 0), D, E, 3, at::kDouble);
    scale_parameters(*router, 5);
    const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
    auto context = context_of(N, 1, Phase::train);
    context.mask_N = at::arange(N).ne(4);
    std::vector<bool> real(static_cast<size_t>(N), true);
    real[4] = false;
    const auto r = router->route(x_ND, context);
    const auto wanted = plain_share(reals(r.scores.score_NE), static_cast<size_t>(N), static_cast<size_t>(E),
                                    static_cast<size_t>(clusters), real);
    REQUIRE(r.losses.size() == 1);
    CHECK(r.losses[0].raw == doctest::Approx(wanted).epsilon(1e-10));
    CHECK(r.losses[0].value.item<double>() == doctest::Approx(0.5 * wanted).epsilon(1e-10));
    if (clusters == 1) CHECK(wanted == doctest::Approx(1));
    if (clusters == E) CHECK(wanted == doctest::Approx(0));
    auto& weight_ED = *parameters_of(*router).front().tensor;
    const auto report = check_gradients([&] { return Evaluated{router->route(x_ND, context).losses[0].value, {}}; },
                                        {{"weight", weight_ED}}, 1e-6);
    CHECK_MESSAGE(report.worst < 1e-7, report.where);
    if (clusters > 1 && clusters < E) CHECK(report.largest > 1e-3);
  }
}

TEST_CASE_FIXTURE(OneThread, "clusters: the constraint gathers a token's probability in one cluster") {
  const int64_t N = 64, D = 6, E = 8;
  const auto router = make_router(clusters_of(4, 0), D, E, 3, at::kDouble);
  scale_parameters(*router, 5);
  const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  const auto context = context_of(N, 1, Phase::train);
  auto& weight_ED = *parameters_of(*router).front().tensor;
  const auto first = router->route(x_ND, context).losses[0].raw;
  for (int step = 0; step < 200; ++step) {
    weight_ED.mutable_grad() = Tensor();
    router->route(x_ND, context).losses[0].value.backward();
    const at::NoGradGuard no_grad;
    weight_ED.add_(weight_ED.grad(), -5);
  }
  const auto r = router->route(x_ND, context);
  CHECK(r.losses[0].raw < 0.2 * first);
  // Both choices of nearly every token are now of one cluster.
  const auto token = ints(r.decision.token_R()), expert = ints(r.decision.expert_R());
  std::vector<int64_t> cluster(N, -1);
  int64_t together = 0;
  for (size_t i = 0; i < token.size(); ++i) {
    auto& seen = cluster[static_cast<size_t>(token[i])];
    if (seen >= 0) together += seen == expert[i] / 2;
    seen = expert[i] / 2;
  }
  CHECK(together > 0.9 * N);
}

TEST_CASE_FIXTURE(OneThread,
                  "clusters: dropout never empties a cluster, changes every step, and is off in evaluation") {
  const int64_t N = 40, D = 5;
  for (const auto& [E, clusters] : std::vector<std::pair<int64_t, int64_t>>{{8, 2}, {7, 3}, {6, 6}}) {
    for (const double share : {0.0, 0.5, 1.0}) {
      CAPTURE(E);
      CAPTURE(clusters);
      CAPTURE(share);
      const auto router = make_router(clusters_of(clusters, share), D, E, 3, at::kDouble);
      const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
      const auto still = router->route(x_ND, context_of(N)).scores;
      CHECK(difference(still.score_NE, still.logit_NE.softmax(1)) < 1e-12);
      std::vector<int64_t> times(static_cast<size_t>(E));
      const int steps = 200;
      for (uint64_t step = 0; step < steps; ++step) {
        auto context = context_of(N, 1, Phase::train);
        context.random = Random(step);
        const auto r = router->route(x_ND, context);
        const auto gone_NE = r.scores.score_NE.eq(0);
        CHECK(gone_NE.eq(gone_NE.slice(0, 0, 1)).all().item<bool>());  // the same experts for every token
        const auto gone = ints(gone_NE[0]);
        for (int64_t c = 0; c < clusters; ++c) {
          const auto begin = c * E / clusters, end = (c + 1) * E / clusters;
          int64_t out = 0;
          for (auto e = begin; e < end; ++e)
            out += gone[static_cast<size_t>(e)], times[static_cast<size_t>(e)] += gone[static_cast<size_t>(e)];
          CHECK(out == std::min(static_cast<int64_t>(share * static_cast<double>(end - begin)), end - begin - 1));
        }
        CHECK(difference(r.scores.score_NE.sum(1), at::ones({N}, at::kDouble)) < 1e-12);
        context.phase = Phase::recompute;
        CHECK(same_bits(router->route(x_ND, context).scores.score_NE.detach(), r.scores.score_NE.detach()));
        // What is out is not chosen while enough is left.
        if (clusters >= 2) {
          const auto expert = ints(r.decision.expert_R());
          for (const auto e : expert) CHECK_FALSE(gone[static_cast<size_t>(e)]);
        }
      }
      for (int64_t c = 0; c < clusters; ++c) {
        const auto begin = c * E / clusters, end = (c + 1) * E / clusters;
        const auto out = std::min(static_cast<int64_t>(share * static_cast<double>(end - begin)), end - begin - 1);
        for (auto e = begin; e < end; ++e)
          CHECK(static_cast<double>(times[static_cast<size_t>(e)]) / steps ==
                doctest::Approx(static_cast<double>(out) / static_cast<double>(end - begin)).epsilon(0.15));
      }
    }
  }
  CHECK(complaint([] { make_router(clusters_of(9, 0), 4, 4); }).find("9 clusters cannot be made of 4 experts") !=
        std::string::npos);
}
