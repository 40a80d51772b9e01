// Balancers at work, hash routing, gates, and compositions that are refused.
//
// N tokens, D model width, E experts.
#include "collegium/route/losses.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

double share_of_largest(const Decision& d) {
  const auto load = d.asked_E();
  return load.max().item<double>() / load.sum().item<double>();
}

Tensor* find_parameter(Router& router, std::string_view name) {
  for (const auto& p : parameters_of(router))
    if (p.name == name) return p.tensor;
  return nullptr;
}

// Tokens that all lean to expert 0.
Tensor skewed(uint64_t seed, int64_t N, int64_t D) {
  auto x_ND = numbers(Random(seed), {N, D});
  x_ND.select(1, 0).fill_(1);
  return x_ND;
}

}  // namespace

TEST_CASE("a selection bias drives a skewed stream to balance, without a gradient") {
  const int64_t N = 64, D = 6, E = 4;
  const auto router = make_router(Named{.name = "loss_free", .fields = table({{"k", 1}, {"rate", 0.02}})}, D, E, 4);
  {
    const at::NoGradGuard no_grad;
    find_parameter(*router, "scorer.weight")
        ->select(1, 0)
        .add_(at::tensor(std::vector<double>{2, 0, 0, 0}).to(at::kFloat));
  }
  const auto first = router->route(skewed(0, N, D), context_of(N)).decision;
  CHECK(share_of_largest(first) > 0.9);
  for (uint64_t step = 0; step < 120; ++step) {
    const auto r = router->route(skewed(step, N, D), context_of(N, 1, Phase::train));
    CHECK(r.losses.empty());
    router->step();
  }
  double worst = 0;
  for (uint64_t seed = 500; seed < 510; ++seed)
    worst = std::max(worst, share_of_largest(router->route(skewed(seed, N, D), context_of(N)).decision));
  CHECK(worst < 0.5);
  const auto* bias = find_parameter(*router, "balancers.0.bias");
  REQUIRE(bias);
  CHECK_FALSE(bias->requires_grad());
  const auto b = reals(*bias);
  CHECK(b[0] < b[1]);
}

TEST_CASE("the bias moves by one rate against each expert's load, and nothing else") {
  const auto router = make_router(Named{.name = "loss_free", .fields = table({{"k", 1}, {"rate", 0.5}})}, 4, 3, 4);
  router->step();
  CHECK(reals(*find_parameter(*router, "balancers.0.bias")) == std::vector<double>{0, 0, 0});  // nothing was seen
  auto* pending = find_parameter(*router, "balancers.0.pending_load");
  pending->copy_(at::tensor(std::vector<double>{5, 1, 3}));
  router->step();
  CHECK(reals(*find_parameter(*router, "balancers.0.bias")) == std::vector<double>{-0.5, 0.5, 0});
}

TEST_CASE("the bias changes who is chosen and never a weight") {
  const int64_t N = 16, D = 6, E = 4;
  const auto plain = make_router(Named{.name = "loss_free", .fields = table({{"k", E}})}, D, E, 4);
  const auto biased = make_router(Named{.name = "loss_free", .fields = table({{"k", E}})}, D, E, 4);
  const auto bias = at::tensor(std::vector<double>{3, -2, 0.5, 0});
  find_parameter(*biased, "balancers.0.bias")->copy_(bias);
  const auto x_ND = numbers(Random(3), {N, D}).requires_grad_(true);
  // With k = E the choice is the same whatever the bias, so the weights must be.
  const auto a = plain->route(x_ND, context_of(N)), b = biased->route(x_ND, context_of(N));
  CHECK(same_bits(a.decision.expert_R(), b.decision.expert_R()));
  CHECK(same_bits(a.decision.gate_R(), b.decision.gate_R()));
  CHECK_FALSE(same_bits(a.decision.score_R(), b.decision.score_R()));
  const auto wanted_R = a.decision.score_R().to(at::kDouble) + bias.index_select(0, a.decision.expert_R());
  CHECK(difference(b.decision.score_R(), wanted_R) < 1e-6);
  const auto gradient = [&](const Routing& r) {
    x_ND.mutable_grad() = Tensor();
    (r.decision.gate_R() * at::arange(r.decision.n_kept())).sum().backward();
    return x_ND.grad().clone();
  };
  CHECK(same_bits(gradient(a), gradient(b)));
  CHECK_FALSE(b.decision.score_R().requires_grad());
}

TEST_CASE("the adaptive L1 norm reaches its target") {
  const int64_t N = 48, D = 8, E = 8;
  for (const double target : {1.0, 3.0}) {
    CAPTURE(target);
    const auto router = make_router(
        Named{.name = "relu", .fields = table({{"target_k", target}, {"start", 1e-3}, {"growth", 1.1}})}, D, E, 6);
    auto* weight = find_parameter(*router, "scorer.weight");
    double active = 0;
    for (uint64_t step = 0; step < 400; ++step) {
      // The constant feature lets a score's threshold move; without it each expert would be on for half the tokens.
      const auto r = router->route(skewed(step, N, D), context_of(N, 1, Phase::train));
      // A task that wants experts on, against the norm that wants them off.
      auto objective = -0.1 * r.scores.score_NE.clamp_max(1).sum() / static_cast<double>(N);
      for (const auto& l : r.losses) objective = objective + l.value;
      weight->mutable_grad() = Tensor();
      objective.backward();
      const at::NoGradGuard no_grad;
      weight->add_(weight->grad(), -0.3);
      router->step();
      if (step >= 300) active += static_cast<double>(r.decision.n_asked()) / static_cast<double>(N) / 100;
    }
    CHECK(active == doctest::Approx(target).epsilon(0.25));
  }
}

TEST_CASE("the strength moves by one factor a step towards the target") {
  const auto router = make_router(
      Named{.name = "relu", .fields = table({{"target_k", 2.0}, {"start", 0.01}, {"growth", 1.5}})}, 4, 4, 6);
  const auto strength = [&] { return find_parameter(*router, "balancers.0.strength")->item<double>(); };
  const auto seen = [&](double active, double tokens) {
    find_parameter(*router, "balancers.0.pending_active")->fill_(active);
    find_parameter(*router, "balancers.0.pending_tokens")->fill_(tokens);
    router->step();
  };
  seen(30, 10);
  CHECK(strength() == doctest::Approx(0.015));
  seen(10, 10);
  CHECK(strength() == doctest::Approx(0.01));
  seen(20, 10);
  CHECK(strength() == doctest::Approx(0.01));
  seen(0, 0);
  CHECK(strength() == doctest::Approx(0.01));
}

TEST_CASE("the L1 term is the load-weighted mean of the scores") {
  const int64_t N = 10, D = 5, E = 4;
  const auto router =
      make_router(Named{.name = "relu", .fields = table({{"target_k", 2.0}, {"start", 0.5}})}, D, E, 6, at::kDouble);
  auto context = context_of(N, 1, Phase::train);
  context.mask_N = at::arange(N).ne(4);
  const auto r = router->route(numbers(Random(3), {N, D}, -1, 1, at::kDouble), context);
  const auto score = reals(r.scores.score_NE);
  const auto load = ints(r.decision.asked_E());
  double wanted = 0;
  for (size_t n = 0; n < 10; ++n)
    for (size_t e = 0; e < 4; ++e)
      if (n != 4) wanted += static_cast<double>(load[e]) * 4 / (2.0 * 9) * score[4 * n + e] / 9;
  REQUIRE(r.losses.size() == 1);
  CHECK(r.losses[0].raw == doctest::Approx(wanted).epsilon(1e-12));
  CHECK(r.losses[0].value.item<double>() == doctest::Approx(0.5 * wanted).epsilon(1e-12));
}

TEST_CASE("ReLU routing is continuous where an expert comes in; top-k routing is not") {
  const int64_t D = 2, E = 2;
  // Token [1, t]: expert 0 scores 1 + 0.5 t, expert 1 scores t. At t = 0 ReLU lets expert 1 in; at t = 2 they tie.
  const auto gates_at = [&](const Named& named, double t) {
    const auto router = make_router(named, D, E, 1, at::kDouble);
    {
      const at::NoGradGuard no_grad;
      find_parameter(*router, "scorer.weight")->copy_(at::tensor(std::vector<double>{1, 0.5, 0, 1}).reshape({2, 2}));
    }
    const auto d = router->route(at::tensor(std::vector<double>{1, t}).reshape({1, 2}), context_of(1)).decision;
    return at::zeros({E}, at::kDouble).index_add(0, d.expert_R(), d.gate_R().detach());
  };
  const Named relu{.name = "relu"};
  for (const double step : {1e-3, 1e-6, 1e-9}) {
    CHECK((gates_at(relu, step) - gates_at(relu, -step)).abs().max().item<double>() <= 2 * step);
    CHECK((gates_at(relu, step) - gates_at(relu, -step)).abs().max().item<double>() > 0);
  }
  const Named top_k{.name = "top_k", .fields = table({{"k", 1}})};
  CHECK((gates_at(top_k, 2 + 1e-9) - gates_at(top_k, 2 - 1e-9)).abs().max().item<double>() == doctest::Approx(1));
}

TEST_CASE("hash routing: nothing learned, k different experts, stable, uniform") {
  const int64_t E = 8, K = 3, N = 16000;
  const Named named{.name = "hash", .fields = table({{"k", K}, {"seed", 5}})};
  const auto router = make_router(named, 4, E, 1), other = make_router(named, 4, E, 99);
  CHECK(parameters_of(*router).empty());
  Context context;
  context.token_id_N = at::arange(N);
  const auto x_ND = at::zeros({N, 4});
  const auto d = router->route(x_ND, context).decision;
  check_decision(d, N, E);
  CHECK(d.n_kept() == N * K);
  CHECK(same_decision(d, other->route(x_ND + 1, context).decision));  // neither the weights' seed nor x matters
  const auto reseeded = make_router({.name = "hash", .fields = table({{"k", K}, {"seed", 6}})}, 4, E);
  CHECK_FALSE(same_decision(d, reseeded->route(x_ND, context).decision));
  // The same ids elsewhere in the batch go to the same experts.
  Context reversed;
  reversed.token_id_N = context.token_id_N.flip({0});
  const auto back = router->route(x_ND, reversed).decision;
  CHECK(pairs(N - 1 - back.token_R(), back.expert_R()) == pairs(d.token_R(), d.expert_R()));

  // Chi-square with 7 degrees of freedom: 24.3 is exceeded once in a thousand; the seed is fixed.
  const auto rank = ints(d.rank_R()), expert = ints(d.expert_R()), token = ints(d.token_R());
  for (int64_t j = 0; j < K; ++j) {
    std::vector<double> count(8);
    for (size_t r = 0; r < rank.size(); ++r) count[static_cast<size_t>(expert[r])] += rank[r] == j;
    double chi = 0;
    for (const auto c : count) chi += (c - 2000) * (c - 2000) / 2000;
    CAPTURE(j);
    CHECK(chi < 24.3);
  }
  // Ids that share the first choice part ways at the second one.
  std::vector<int64_t> first(N), second(N);
  for (size_t r = 0; r < rank.size(); ++r) {
    if (rank[r] == 0) first[static_cast<size_t>(token[r])] = expert[r];
    if (rank[r] == 1) second[static_cast<size_t>(token[r])] = expert[r];
  }
  std::vector<double> after(8);
  for (size_t n = 0; n < first.size(); ++n)
    if (first[n] == 0) ++after[static_cast<size_t>(second[n])];
  CHECK(after[0] == 0);
  // Linear probing gives expert 1 the share of expert 0 as well: two eighths; the others one.
  for (size_t e = 1; e < 8; ++e) CHECK(after[e] / 2000 == doctest::Approx(e == 1 ? 0.25 : 0.125).epsilon(0.2));
}

TEST_CASE("weights of a token: shares of what was asked, of what was kept, or all the same") {
  const auto scores_by_hand = at::tensor(std::vector<double>{0.6, 0.3, 0.1, 0.5, 0.4, 0.1}).reshape({2, 3});
  Scores scores;
  scores.score_NE = scores.logit_NE = scores_by_hand, scores.kind = ScoreKind::softmax;
  const auto one = at::ones({4}, at::kDouble);
  const auto asked =
      Decision::make({at::tensor(std::vector<int64_t>{0, 0, 1, 1}), at::tensor(std::vector<int64_t>{0, 1, 0, 1}),
                      at::tensor(std::vector<int64_t>{0, 1, 0, 1}), one, one},
                     2, 3);
  // Expert 0 has room for token 0 only.
  const auto d = asked.keep_only(at::tensor(std::vector<int64_t>{1, 0, 1, 1}).to(at::kBool), DropReason::capacity);
  const auto weigh = [&](const Named& named) {
    return reals(find(gates(), named, "gate")
                     .make(named, {.d_model = 2, .n_experts = 3, .options = at::kFloat})
                     ->weigh(scores, d, {}));
  };
  const auto is_near = [](const std::vector<double>& a, const std::vector<double>& b) {
    bool near = a.size() == b.size();
    for (size_t i = 0; near && i < a.size(); ++i) near = std::abs(a[i] - b[i]) < 1e-12;
    return near;
  };
  CHECK(is_near(weigh({.name = "score"}), {0.6, 0.3, 0.4}));
  CHECK(is_near(weigh({.name = "score", .fields = table({{"scale", 2.0}})}), {1.2, 0.6, 0.8}));
  CHECK(is_near(weigh({.name = "one"}), {0.5, 0.5, 0.5}));
  CHECK(is_near(weigh({.name = "normalised"}), {0.6 / 0.9, 0.3 / 0.9, 0.4 / 0.9}));
  CHECK(is_near(weigh({.name = "normalised", .fields = table({{"over", "kept"}, {"scale", 2.5}})}),
                {2.5 * 0.6 / 0.9, 2.5 * 0.3 / 0.9, 2.5}));
}

TEST_CASE("compositions that make no sense are refused with their reason") {
  const auto reason = [](const Named& named, int64_t E = 4) { return complaint([&] { make_router(named, 4, E); }); };
  const auto linear = [](const char* activation) { return table({{"name", "linear"}, {"activation", activation}}); };
  CHECK(reason(stages({{"scorer", "none"}})) ==
        "router: 'top_k' needs softmax or sigmoid or relu scores, but scorer 'none' gives no scores");
  CHECK(reason(stages({{"scorer", "none"}, {"selector", "hash"}})) ==
        "router: 'normalised' needs softmax or sigmoid or relu scores, but scorer 'none' gives no scores");
  CHECK(reason(stages({{"scorer", "none"}, {"selector", "hash"}, {"gate", "one"}, {"capacity", "reroute"}})) ==
        "router: 'reroute' needs softmax or sigmoid or relu scores, but scorer 'none' gives no scores");
  CHECK(reason(
            stages({{"scorer", "none"}, {"selector", "hash"}, {"gate", "one"}, {"balancers", List{"balance_loss"}}})) ==
        "router: 'balance_loss' needs softmax or sigmoid or relu scores, but scorer 'none' gives no scores");
  CHECK(reason(stages({{"selector", "hash"}, {"balancers", List{"loss_free_bias"}}})) ==
        "router: balancer 'loss_free_bias' moves a selection bias, but selector 'hash' reads none");
  CHECK(reason(stages({{"selector", "expert_choice"}, {"balancers", List{"loss_free_bias"}}})) ==
        "router: balancer 'loss_free_bias' moves a selection bias, but selector 'expert_choice' reads none");
  CHECK(
      reason(stages({{"selector", "expert_choice"}, {"capacity", "factor"}})) ==
      "router: selector 'expert_choice' already gives each expert a fixed number of tokens; capacity 'factor' must be "
      "'unlimited'");
  CHECK(reason(stages({{"balancers", List{"loss_free_bias", "primal_dual_bias"}}})) ==
        "router: two balancers move the same selection bias; one of them must go");
  CHECK(reason(stages({{"scorer", linear("softmax")}, {"selector", "positive"}})) ==
        "router: 'positive' needs relu scores, but scorer 'linear' gives softmax scores");
  CHECK(reason(stages({{"scorer", linear("sigmoid")}, {"balancers", List{"adaptive_l1"}}})) ==
        "router: 'adaptive_l1' needs relu scores, but scorer 'linear' gives sigmoid scores");
  CHECK(reason(stages({{"scorer", linear("relu")}, {"selector", "expert_choice"}})) ==
        "router: 'expert_choice' needs softmax or sigmoid scores, but scorer 'linear' gives relu scores");
  CHECK(reason(stages({{"scorer", linear("none")}})) == "linear: activation must be softmax, sigmoid or relu");
  CHECK(reason({.name = "top_k", .fields = table({{"k", 5}})}) == "top_k: k = 5 is more than the 4 experts there are");
  CHECK(reason({.name = "hash", .fields = table({{"k", 5}})}) == "hash: k = 5 is more than the 4 experts there are");
  CHECK(reason({.name = "gshard"}, 1) == "top_k: k = 2 is more than the 1 experts there are");
  CHECK(reason({.name = "expert_choice", .fields = table({{"capacity_factor", 4.5}})}) ==
        "expert_choice: capacity_factor = 4.5 is more than the 4 experts there are: a token can be taken once by each");
  CHECK(reason({.name = "relu", .fields = table({{"target_k", 9.0}})}) ==
        "adaptive_l1: target_k = 9 is more than the 4 experts there are");
  CHECK(reason({.name = "top_k"}, 0).find("more than the 0 experts") != std::string::npos);
  CHECK(reason({.name = "swich"}).find("did you mean 'switch'?") != std::string::npos);
  CHECK(reason({.name = "top_k", .fields = table({{"kk", 2}})}).find("kk") != std::string::npos);
}

TEST_CASE("a composition says when its scorer learns nothing from the task") {
  const auto untaught = [](const Named& named) { return make_router(named, 4, 4)->untaught(); };
  const Named one_of_one = {.name = "top_k", .fields = table({{"k", 1}})};
  CHECK(
      untaught(one_of_one) ==
      "its scorer 'linear' learns nothing from the task, for its gate 'normalised' gives the same weight whatever the "
      "scores of one choice are; gate 'score' (as in router 'switch') would teach it");
  CHECK_FALSE(make_router(one_of_one, 4, 4)->facts().learns_from_task);
  CHECK(untaught(stages({{"gate", "one"}})).find("gate 'one' gives the same weight whatever the scores;") !=
        std::string::npos);
  for (const auto* name :
       {"top_k", "switch", "hash", "thor", "base", "stable", "hyper", "expert_choice", "domain_aware"})
    CHECK(untaught({.name = name}).empty());
  CHECK(untaught({.name = "ada_moe", .fields = table({{"k", 1}})}).empty());  // a token may choose a null expert

  // And so it is: the weights' gradient is zero, or there is none.
  for (const int64_t k : {1, 2}) {
    auto router = make_router({.name = "top_k", .fields = table({{"k", k}})}, 4, 4, 3, at::kDouble);
    const auto x_ND = numbers(Random(2), {9, 4}, -1, 1, at::kDouble);
    const auto gate_R = router->route(x_ND, context_of(9)).decision.gate_R();
    (gate_R * at::arange(gate_R.size(0), gate_R.options())).sum().backward();
    const auto largest = parameters_of(*router).front().tensor->grad().abs().max().item<double>();
    CHECK((largest > 1e-9) == (k == 2));
  }
}
