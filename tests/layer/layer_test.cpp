// Layers against formulas written out by hand: routed with shared experts, soft slots, dense.
// (What every layer holds is in tests/contracts/layer_test.cpp.)
//
// B sequences, T tokens each, N = B T, D model width, E experts, S slots per expert, P = E S.
#include "collegium/layer/layer.h"

#include "collegium/layer/experts.h"
#include "tests/support/layers.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;

}  // namespace

TEST_CASE("routed: the weighted sum of the chosen experts, plus the shared ones as they are") {
  const int64_t N = 7, D = 5, E = 4;
  const auto made = make_layer(
      {.name = "routed",
       .fields = table(
           {{"n_experts", E}, {"d_expert", 3}, {"n_shared", 2}, {"router", table({{"name", "top_k"}, {"k", 2}})}})},
      D);
  scale_parameters(*made->router(), 5);
  const auto x_ND = inputs(N, D);
  const auto y_ND = made->forward(x_ND, context_of(N)).y_ND;

  const auto probability_NE = at::linear(x_ND, weight(*made, "router.scorer.weight")).softmax(-1);
  const auto up_EHD = weight(*made, "experts.gate_up"), down_EDI = weight(*made, "experts.down");
  std::vector<Tensor> rows;
  for (int64_t n = 0; n < N; ++n) {
    const auto [score, expert] = probability_NE[n].topk(2);
    auto row = at::zeros({D}, at::kDouble);
    for (int64_t j = 0; j < 2; ++j) {
      const auto e = expert[j].item<int64_t>();
      row = row + score[j] / score.sum() * swiglu(x_ND.slice(0, n, n + 1), up_EHD[e], down_EDI[e])[0];
    }
    rows.push_back(row);
  }
  // Two shared experts are one network of twice the width: the sum of its halves.
  const auto shared_up_HD = weight(*made, "shared.gate_up")[0], shared_down_DI = weight(*made, "shared.down")[0];
  CHECK((shared_up_HD.sizes() == at::IntArrayRef{12, D}));
  auto shared_ND = at::zeros({N, D}, at::kDouble);
  for (int64_t i = 0; i < 2; ++i) {
    const auto gate_up =
        at::cat({shared_up_HD.slice(0, 3 * i, 3 * i + 3), shared_up_HD.slice(0, 6 + 3 * i, 9 + 3 * i)});
    shared_ND = shared_ND + swiglu(x_ND, gate_up, shared_down_DI.slice(1, 3 * i, 3 * i + 3));
  }
  CHECK(difference(y_ND, at::stack(rows) + shared_ND) < 1e-12);
}

TEST_CASE("routed: a dropped token passes by, a shared expert still works for it") {
  const int64_t N = 6, D = 4;
  const auto router =
      table({{"name", "switch"}, {"capacity_factor", 0.1}, {"evaluation_capacity_factor", 0.0}, {"jitter", 0.0}});
  const Table plain = table({{"n_experts", 2}, {"d_expert", 3}, {"router", router}});
  auto with_shared = plain;
  with_shared.set("n_shared", 1);
  const auto alone = make_layer({.name = "routed", .fields = plain}, D),
             both = make_layer({.name = "routed", .fields = with_shared}, D);
  const auto a = alone->forward(inputs(N, D), context_of(N)), b = both->forward(inputs(N, D), context_of(N));
  const auto gone = a.decision->dropped().token_Q;
  CHECK(gone.size(0) == 4);
  CHECK(a.y_ND.index_select(0, gone).abs().max().item<double>() == 0);
  CHECK(b.y_ND.index_select(0, gone).abs().min().item<double>() > 0);
}

TEST_CASE("routed: the loop and the fused kernels are the same layer") {
  const int64_t N = 9, D = 6;
  for (const auto* kind : experts()) {
    CAPTURE(kind->card.name);
    const auto with = [&](const char* dispatch) {
      return make_layer(
          {.name = "routed",
           .fields = table({{"n_experts", 4}, {"expert", std::string(kind->card.name)}, {"dispatch", dispatch}})},
          D);
    };
    const auto fused = with("fused"), loop = with("loop");
    CHECK(same_state(save(*fused), save(*loop)));
    CHECK(difference(fused->forward(inputs(N, D), context_of(N)).y_ND,
                     loop->forward(inputs(N, D), context_of(N)).y_ND) < 1e-12);
  }
}

TEST_CASE("dense: one network, its width from the model's") {
  const auto made = make_layer({.name = "dense"}, 6);
  CHECK((weight(*made, "network.gate_up").sizes() == at::IntArrayRef{1, 48, 6}));
  const auto x_ND = inputs(5, 6);
  const auto out = made->forward(x_ND, context_of(5));
  CHECK(difference(out.y_ND, swiglu(x_ND, weight(*made, "network.gate_up")[0], weight(*made, "network.down")[0])) <
        1e-12);
  CHECK(out.losses.empty());
}

TEST_CASE("soft: slots mix tokens, tokens mix slots, sequence by sequence") {
  const int64_t B = 2, T = 4, D = 5, E = 3, S = 2, P = E * S;
  const auto made = make_layer({.name = "soft", .fields = table({{"n_experts", E}, {"slots", S}, {"d_expert", 3}})}, D);
  for (const auto& p : parameters_of(*made))
    if (p.name == "scale") {
      const at::NoGradGuard no_grad;
      p.tensor->fill_(2.5);
    }
  const auto x_ND = inputs(B * T, D);
  auto context = context_of(B * T, B);
  context.mask_N = at::arange(B * T).ne(6);
  context.record = true;
  const auto out = made->forward(x_ND, context);

  const auto phi = reals(weight(*made, "phi")), x = reals(x_ND);
  const auto up_EHD = weight(*made, "experts.gate_up"), down_EDI = weight(*made, "experts.down");
  auto wanted_ND = at::zeros({B * T, D}, at::kDouble);
  auto share_NE = at::zeros({B * T, E}, at::kDouble);
  const auto length = [&](const std::vector<double>& v, int64_t row) {
    double sum = 0;
    for (int64_t i = 0; i < D; ++i) sum += v[static_cast<size_t>(row * D + i)] * v[static_cast<size_t>(row * D + i)];
    return std::sqrt(sum);
  };
  for (int64_t b = 0; b < B; ++b) {
    const auto is_real = [&](int64_t t) { return b * T + t != 6; };
    std::vector<std::vector<double>> logit(static_cast<size_t>(T), std::vector<double>(static_cast<size_t>(P)));
    for (int64_t t = 0; t < T; ++t)
      for (int64_t p = 0; p < P; ++p) {
        double dot = 0;
        for (int64_t i = 0; i < D; ++i)
          dot += x[static_cast<size_t>((b * T + t) * D + i)] * phi[static_cast<size_t>(p * D + i)];
        logit[static_cast<size_t>(t)][static_cast<size_t>(p)] = 2.5 * dot / length(x, b * T + t) / length(phi, p);
      }
    std::vector<Tensor> slot_out;
    for (int64_t p = 0; p < P; ++p) {
      double norm = 0;
      auto slot_D = at::zeros({D}, at::kDouble);
      for (int64_t t = 0; t < T; ++t)
        if (is_real(t)) norm += std::exp(logit[static_cast<size_t>(t)][static_cast<size_t>(p)]);
      for (int64_t t = 0; t < T; ++t)
        if (is_real(t))
          slot_D = slot_D + std::exp(logit[static_cast<size_t>(t)][static_cast<size_t>(p)]) / norm * x_ND[b * T + t];
      slot_out.push_back(swiglu(slot_D.unsqueeze(0), up_EHD[p / S], down_EDI[p / S])[0]);
    }
    for (int64_t t = 0; t < T; ++t) {
      if (!is_real(t)) continue;
      double norm = 0;
      for (const auto l : logit[static_cast<size_t>(t)]) norm += std::exp(l);
      for (int64_t p = 0; p < P; ++p) {
        const auto share = std::exp(logit[static_cast<size_t>(t)][static_cast<size_t>(p)]) / norm;
        wanted_ND[b * T + t] += share * slot_out[static_cast<size_t>(p)];
        share_NE[b * T + t][p / S] += share;
      }
    }
  }
  CHECK(difference(out.y_ND, wanted_ND) < 1e-10);

  // Its trace: every real token meets every expert once, with shares that sum to one.
  REQUIRE(out.decision);
  const auto& d = *out.decision;
  check_decision(d, B * T, E, context.mask_N);
  CHECK(d.n_kept() == 7 * E);
  CHECK(d.n_dropped() == 0);
  const auto traced_NE =
      at::zeros({B * T, E}, at::kDouble).index_put({d.token_R(), d.expert_R()}, d.gate_R().to(at::kDouble));
  CHECK(difference(traced_NE, share_NE) < 1e-6);
  const auto sum = reals(traced_NE.sum(1));
  for (size_t n = 0; n < sum.size(); ++n) CHECK(sum[n] == doctest::Approx(n == 6 ? 0 : 1));
  // Ranks follow the shares.
  const auto token = ints(d.token_R()), expert = ints(d.expert_R()), rank = ints(d.rank_R());
  for (size_t r = 0; r < token.size(); ++r) {
    const auto mine = share_NE[token[r]][expert[r]].item<double>();
    CHECK(share_NE[token[r]].gt(mine + 1e-12).sum().item<int64_t>() == rank[r]);
  }
}

TEST_CASE("soft: the scale of the scores starts where init_sharpness says") {
  const auto first = [](std::initializer_list<std::pair<std::string, Value>> fields) {
    return weight(*make_layer({.name = "soft", .fields = table(fields)}, 9), "scale").item<double>();
  };
  CHECK(first({}) == 1);
  CHECK(first({{"init_sharpness", 4.5}}) == 4.5);
  CHECK(first({{"init_sharpness", 0.0}}) == 3);
}

TEST_CASE("soft: sequences must be of equal length") {
  const auto made = make_layer({.name = "soft", .fields = table({{"n_experts", 2}, {"d_expert", 3}})}, 4);
  auto context = context_of(6, 2);
  CHECK(complaint([&] { made->forward(inputs(7, 4), context); }).find("equal length") != std::string::npos);
  context.sequence_N = at::tensor(std::vector<int64_t>{0, 0, 0, 0, 1, 1});
  CHECK(complaint([&] { made->forward(inputs(6, 4), context); }).find("equal length") != std::string::npos);
  context.sequence_N = at::tensor(std::vector<int64_t>{0, 0, 0, 1, 1, 1});
  CHECK(complaint([&] { made->forward(inputs(6, 4), context); }).empty());
}

TEST_CASE("facts count what one token meets") {
  const int64_t D = 6;
  const auto made = make_layer(
      {.name = "routed",
       .fields = table(
           {{"n_experts", 8}, {"d_expert", 5}, {"n_shared", 1}, {"router", table({{"name", "top_k"}, {"k", 3}})}})},
      D);
  const double expert = 3 * 5 * D, router = 8 * D;
  const auto facts = made->facts();
  CHECK(facts.n_experts == 8);
  CHECK(facts.parameters_active == 4 * expert + router);
  CHECK(facts.flops_per_token == 2 * (4 * expert + router));
  CHECK(facts.is_causal);
  const auto gelu = make_layer({.name = "dense", .fields = table({{"expert", "gelu"}, {"d_hidden", 7}})}, D)->facts();
  CHECK(gelu.parameters_active == 2 * 7 * D);
  CHECK(gelu.n_experts == 0);
}

TEST_CASE("wrong names below a layer are refused where they stand") {
  const auto reason = [](const Table& fields) {
    return complaint([&] { make_layer({.name = "routed", .fields = fields}, 4); });
  };
  CHECK(reason(table({{"expert", "swiglo"}})).find("did you mean 'swiglu'?") != std::string::npos);
  CHECK(reason(table({{"router", "top_q"}})).find("unknown router 'top_q'") != std::string::npos);
  CHECK(reason(table({{"n_experts", 1}, {"router", table({{"name", "top_k"}, {"k", 2}})}})) ==
        "top_k: k = 2 is more than the 1 experts there are");
  CHECK(reason(table({{"n_experts", 0}})).find("n_experts") != std::string::npos);
}
