// Locality: the loss by its formula, what it does to a router, and the bound on the capacity.
//
// N tokens, D model width, E experts, G devices.
#include "collegium/route/least_capacity.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

Named loc_moe(int64_t devices, double local, double weight = 1, double factor = 0) {
  return {.name = "loc_moe",
          .fields = table({{"n_devices", devices},
                           {"local", local},
                           {"locality_loss", weight},
                           {"balance_loss", 0.0},
                           {"capacity_factor", factor}})};
}

Tensor& weight_of(Router& router) {
  return *parameters_of(router).front().tensor;
}

// The share of the unit sphere in R^d within cosine c of a point, by Simpson's rule over the angle.
double cap(double c, int64_t d) {
  const auto area = [&](double from, double to) {
    const int n = 4000;
    double sum = 0;
    for (int i = 0; i <= n; ++i) {
      const auto angle = from + (to - from) * i / n;
      sum += std::pow(std::sin(angle), static_cast<double>(d - 2)) * (i == 0 || i == n ? 1 : i % 2 ? 4 : 2);
    }
    return sum * (to - from) / (3 * n);
  };
  return area(0, std::acos(c)) / area(0, std::acos(-1.0));
}

void descend(Router& router, const Tensor& x_ND, const Context& context, int steps, double rate) {
  auto& weight_ED = weight_of(router);
  for (int step = 0; step < steps; ++step) {
    weight_ED.mutable_grad() = Tensor();
    router.route(x_ND, context).losses[0].value.backward();
    const at::NoGradGuard no_grad;
    weight_ED.add_(weight_ED.grad(), -rate);
  }
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "loc_moe: the locality loss is its formula, with derivatives") {
  const int64_t N = 12, D = 5;
  for (const auto& [E, G] : std::vector<std::pair<int64_t, int64_t>>{{6, 2}, {6, 3}, {7, 3}, {4, 1}}) {
    CAPTURE(E);
    CAPTURE(G);
    const auto router = make_router(loc_moe(G, 0.7, 0.5), D, E, 3, at::kDouble);
    scale_parameters(*router, 5);
    const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
    auto context = context_of(N, 4, Phase::train);
    context.mask_N = at::arange(N).ne(7);
    const auto r = router->route(x_ND, context);
    const auto p = reals(r.scores.score_NE);
    double wanted = 0, stays = 0;
    const auto device = [&, n_experts = E, n_devices = G](int64_t e) { return e * n_devices / n_experts; };
    for (int64_t h = 0; h < G; ++h) {
      double count = 0, here = 0;
      std::vector<double> mean(static_cast<size_t>(E));
      for (int64_t e = 0; e < E; ++e) here += device(e) == h;
      for (int64_t n = 0; n < N; ++n) {
        if (n == 7 || (n / 3) % G != h) continue;
        ++count;
        for (int64_t e = 0; e < E; ++e) mean[static_cast<size_t>(e)] += p[static_cast<size_t>(n * E + e)];
      }
      for (int64_t e = 0; e < E && count > 0; ++e) {
        const auto q = G == 1 ? 1 / here : device(e) == h ? 0.7 / here : 0.3 / (static_cast<double>(E) - here);
        const auto share = mean[static_cast<size_t>(e)] / count;
        wanted += count / 11 * share * std::log(share / q);
      }
    }
    const auto token = ints(r.decision.token_R()), expert = ints(r.decision.expert_R());
    for (size_t i = 0; i < token.size(); ++i) stays += (token[i] / 3) % G == device(expert[i]);
    REQUIRE(r.losses.size() == 2);
    CHECK(r.losses[0].raw == doctest::Approx(wanted).epsilon(1e-10));
    CHECK(r.losses[0].value.item<double>() == doctest::Approx(0.5 * wanted).epsilon(1e-10));
    CHECK(r.losses[1].raw == doctest::Approx(stays / 11));
    CHECK(r.losses[1].value.item<double>() == 0);
    const auto report = check_gradients([&] { return Evaluated{router->route(x_ND, context).losses[0].value, {}}; },
                                        {{"weight", weight_of(*router)}}, 1e-6);
    CHECK_MESSAGE(report.worst < 1e-7, report.where);
    CHECK(report.largest > 1e-3);
  }
}

TEST_CASE_FIXTURE(OneThread,
                  "loc_moe: the loss vanishes at its target, and brings work home where tokens tell their device") {
  // Even scores over two experts on two devices are the target of local = 0.5.
  const auto even = make_router(loc_moe(2, 0.5), 4, 2, 3, at::kDouble);
  scale_parameters(*even, 0);
  CHECK(std::abs(even->route(numbers(Random(2), {8, 4}, -1, 1, at::kDouble), context_of(8, 2)).losses[0].raw) < 1e-12);

  const int64_t N = 120, D = 6, E = 6;
  const auto router = make_router(loc_moe(3, 0.95), D, E, 3, at::kDouble);
  auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
  const auto context = context_of(N, 6, Phase::train);
  for (int64_t n = 0; n < N; ++n) x_ND[n][context.sequence_N[n].item<int64_t>() % 3] += 2;
  const auto before = router->route(x_ND, context).losses[1].raw;
  descend(*router, x_ND, context, 300, 1);
  const auto after = router->route(x_ND, context);
  CHECK(before < 0.6);
  CHECK(after.losses[1].raw > 0.9);
  // Balanced, too: every expert has work.
  CHECK(after.scores.score_NE.detach().mean(0).min().item<double>() > 0.5 / static_cast<double>(E));
}

TEST_CASE("loc_moe: no more directions lie within an angle than the bound says") {
  double tightest = 0;
  for (const int64_t d : {3, 4, 8, 16, 64, 256})
    for (double c = 0; c < 0.9999; c += 0.01) {
      const auto exact = cap(c, d), bound = largest_share_within(c, d);
      CHECK(exact <= bound);
      tightest = std::max(tightest, exact / bound);
    }
  CHECK(tightest > 0.45);  // at right angles half of all directions are within
  CHECK(largest_share_within(-0.5, 8) == 1);
  CHECK(least_capacity(0, 8, 4) == doctest::Approx(0.25));
  CHECK(least_capacity(0.5, 64, 4) == doctest::Approx(std::exp(64 * 0.25 / 1.75) / 4));
  CHECK(complaint([] { least_capacity(1.5, 8, 4); }).find("a cosine lies in [-1, 1], got 1.5") != std::string::npos);
}

TEST_CASE_FIXTURE(OneThread,
                  "loc_moe: random and trained routers keep the capacity bound on tokens without a direction") {
  const int64_t N = 20000, D = 12, E = 4;
  const auto router = make_router(loc_moe(2, 0.9), D, E, 3, at::kDouble);
  scale_parameters(*router, 3);
  for (const bool is_trained : {false, true}) {
    CAPTURE(is_trained);
    if (is_trained) {
      const auto x_ND = numbers(Random(2), {60, D}, -1, 1, at::kDouble);
      descend(*router, x_ND, context_of(60, 4, Phase::train), 200, 1);
    }
    const auto x_ND = Random(9).normal({N, D}, 1, at::kDouble);
    const auto weight_ED = weight_of(*router).detach();
    const auto cosine_NE = at::linear(x_ND / x_ND.norm(2, 1, true), weight_ED / weight_ED.norm(2, 1, true));
    for (const double c : {0.2, 0.4, 0.6}) {
      CAPTURE(c);
      const auto share_E = reals(cosine_NE.ge(c).to(at::kDouble).mean(0));
      for (const auto share : share_E) {
        const auto error = 4 * std::sqrt(largest_share_within(c, D) / static_cast<double>(N));
        CHECK(share <= largest_share_within(c, D) + error);
        // Tokens until one within the angle comes, dealt to E experts.
        CHECK(1 / (share + 1e-12) / static_cast<double>(E) >=
              least_capacity(c, D, E) / (1 + error / largest_share_within(c, D)));
      }
    }
    // The angle of a decision, by a loop.
    const auto some_ND = x_ND.slice(0, 0, 50);
    const auto d = router->route(some_ND, context_of(50)).decision;
    const auto token = ints(d.token_R()), expert = ints(d.expert_R());
    double least = 1;
    for (size_t i = 0; i < token.size(); ++i) least = std::min(least, cosine_NE[token[i]][expert[i]].item<double>());
    CHECK(cosine_of_largest_angle(some_ND, weight_ED, d) == doctest::Approx(least));
  }
}
