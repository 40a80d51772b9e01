// Expert-router coupling: the loss against a plain loop, its derivatives, its cost, and where it vanishes.
//
// N tokens, D model width, E experts, I expert width.
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

// Experts with weights of their own, which count how often and with how many rows they are asked.
class CountingProbe final : public ExpertProbe {
 public:
  CountingProbe(int64_t E, int64_t D, int64_t I, uint64_t seed) {
    for (int64_t e = 0; e < E; ++e)
      weight_ID.push_back(
          numbers(Random(seed).at(static_cast<uint64_t>(e)), {I, D}, -1, 1, at::kDouble).requires_grad_(true));
  }
  Tensor one(const Tensor&, int64_t) override { throw std::logic_error("outputs are not needed"); }
  Tensor hidden(const Tensor& x_RD, int64_t expert) override {
    ++calls, rows += x_RD.size(0);
    return at::silu(at::linear(x_RD, weight_ID[static_cast<size_t>(expert)].to(x_RD.scalar_type())));
  }
  std::vector<Tensor> weight_ID;
  int64_t calls = 0, rows = 0;
};

double plain_loss(CountingProbe& probe, const Tensor& proxy_ED, double alpha) {
  const auto E = proxy_ED.size(0);
  const at::NoGradGuard no_grad;
  std::vector<std::vector<double>> m(static_cast<size_t>(E), std::vector<double>(static_cast<size_t>(E)));
  for (int64_t i = 0; i < E; ++i)
    for (int64_t j = 0; j < E; ++j) {
      double squares = 0;
      for (const auto h : reals(probe.hidden(proxy_ED[i].unsqueeze(0), j))) squares += h * h;
      m[static_cast<size_t>(i)][static_cast<size_t>(j)] = std::sqrt(squares);
    }
  double sum = 0;
  for (size_t i = 0; i < m.size(); ++i)
    for (size_t j = 0; j < m.size(); ++j)
      if (i != j) sum += std::max(m[i][j] - alpha * m[i][i], 0.0) + std::max(m[j][i] - alpha * m[i][i], 0.0);
  return sum / static_cast<double>(E * (E - 1));
}

std::unique_ptr<Router> erc(int64_t D, int64_t E, double alpha) {
  auto router =
      make_router({.name = "erc", .fields = table({{"alpha", alpha}, {"balance_loss", 0.0}})}, D, E, 3, at::kDouble);
  scale_parameters(*router, 4);
  return router;
}

Tensor& embedding_of(Router& router) {
  return *parameters_of(router).front().tensor;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread,
                  "erc: the coupling loss is the plain loop's, with derivatives through router and experts") {
  const int64_t N = 6, D = 5, E = 4, I = 3;
  for (const double alpha : {1.0, 0.6}) {
    CAPTURE(alpha);
    CountingProbe probe(E, D, I, 7);
    const auto router = erc(D, E, alpha);
    const auto x_ND = numbers(Random(2), {N, D}, -1, 1, at::kDouble);
    auto context = context_of(N);
    context.experts = &probe;
    const auto r = router->route(x_ND, context);
    REQUIRE(r.losses.size() == 1);
    const auto wanted = plain_loss(probe, embedding_of(*router), alpha);
    CHECK(wanted > 0.01);
    CHECK(r.losses[0].raw == doctest::Approx(wanted).epsilon(1e-12));

    std::vector<Variable> variables = {{"embedding", embedding_of(*router)}};
    for (size_t e = 0; e < probe.weight_ID.size(); ++e)
      variables.push_back({"expert " + std::to_string(e), probe.weight_ID[e]});
    const auto report =
        check_gradients([&] { return Evaluated{router->route(x_ND, context).losses[0].value, {}}; }, variables, 1e-6);
    CHECK_MESSAGE(report.worst < 1e-6, report.where);
    CHECK(report.largest > 1e-3);
  }
}

TEST_CASE_FIXTURE(OneThread, "erc: perturbed embeddings stay nearer to their own than to any other") {
  // The probe keeps what it is asked about: expert 0 sees all perturbed embeddings.
  struct KeepingProbe final : ExpertProbe {
    Tensor one(const Tensor& x_RD, int64_t) override { return x_RD; }
    Tensor hidden(const Tensor& x_RD, int64_t) override { return seen_ED = x_RD; }
    Tensor seen_ED;
  } probe;
  const int64_t D = 5, E = 6;
  const auto router = erc(D, E, 1);
  const auto clean_ED = embedding_of(*router).detach();
  const auto distance_EE = at::cdist(clean_ED, clean_ED);
  for (uint64_t step = 0; step < 50; ++step) {
    auto context = context_of(3, 1, Phase::train);
    context.experts = &probe, context.random = Random(step);
    router->route(at::ones({3, D}, at::kDouble), context);
    const auto moved_E = (probe.seen_ED.detach() - clean_ED).norm(2, 1);
    CHECK(moved_E.gt(0).all().item<bool>());
    for (int64_t i = 0; i < E; ++i)
      for (int64_t j = 0; j < E; ++j)
        if (i != j) CHECK(moved_E[i].item<double>() <= distance_EE[i][j].item<double>() / 2);
    CHECK(at::cdist(probe.seen_ED.detach(), clean_ED).argmin(1).equal(at::arange(E)));
    // Another pass of the same step sees the same noise; evaluation none.
    const auto first_ED = probe.seen_ED.detach().clone();
    context.phase = Phase::recompute, router->route(at::ones({3, D}, at::kDouble), context);
    CHECK(same_bits(probe.seen_ED.detach(), first_ED));
    context.phase = Phase::evaluate, router->route(at::ones({3, D}, at::kDouble), context);
    CHECK(same_bits(probe.seen_ED.detach(), clean_ED));
  }
}

TEST_CASE_FIXTURE(OneThread, "erc: the cost does not depend on the number of tokens") {
  const int64_t D = 5, E = 4;
  const auto router = erc(D, E, 1);
  for (const int64_t N : {0, 1, 10, 1000}) {
    CAPTURE(N);
    CountingProbe probe(E, D, 3, 7);
    auto context = context_of(N, 1, Phase::train);
    context.experts = &probe;
    router->route(numbers(Random(2), {N, D}, -1, 1, at::kDouble), context);
    CHECK(probe.calls == E);
    CHECK(probe.rows == E * E);
  }
}

TEST_CASE_FIXTURE(OneThread, "erc: nothing is penalised where each expert answers to its own embedding alone") {
  // Expert e sees feature e only, and embedding e points along it.
  struct OwnFeature final : ExpertProbe {
    Tensor one(const Tensor& x_RD, int64_t) override { return x_RD; }
    Tensor hidden(const Tensor& x_RD, int64_t expert) override { return x_RD.slice(1, expert, expert + 1); }
  } probe;
  const int64_t E = 4;
  const auto router = erc(E, E, 0.2);
  {
    const at::NoGradGuard no_grad;
    embedding_of(*router).copy_(at::eye(E, at::kDouble));
  }
  auto context = context_of(5, 1, Phase::train);
  context.experts = &probe;
  const auto x_ND = numbers(Random(2), {5, E}, -1, 1, at::kDouble);
  const auto r = router->route(x_ND, context);
  CHECK(r.losses[0].raw == 0);
  r.losses[0].value.backward();
  CHECK(embedding_of(*router).grad().abs().sum().item<double>() == 0);
  {
    const at::NoGradGuard no_grad;
    embedding_of(*router).copy_(at::eye(E, at::kDouble).roll({1}, {0}));
  }
  CHECK(router->route(x_ND, context).losses[0].raw > 0.1);
}

TEST_CASE_FIXTURE(OneThread, "erc: null experts have no part in it, and a scorer without embeddings is refused") {
  CountingProbe probe(3, 5, 3, 7);
  const auto router = make_router(stages({{"balancers", List{"coupling_loss"}}, {"null_experts", 2}}), 5, 3, 3);
  auto context = context_of(4, 1, Phase::train);
  context.experts = &probe;
  router->route(numbers(Random(2), {4, 5}), context);
  CHECK(probe.calls == 3);
  CHECK(complaint([] {
          make_router(
              stages({{"scorer", "none"}, {"selector", "hash"}, {"gate", "one"}, {"balancers", List{"coupling_loss"}}}),
              5, 3);
        }).find("needs an embedding for each expert") != std::string::npos);
}
