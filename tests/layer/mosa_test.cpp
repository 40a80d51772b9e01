// MoSA (P026): heads by their definition, what is chosen and what it costs, generation with a short cache.
//
// B sequences, T tokens each, D model width, E sparse heads, d head width.
#include "collegium/layer/choose_tokens.h"
#include "tests/support/attentions.h"

namespace {

using namespace collegium;
using namespace collegium::layer;
using namespace collegium::test;
using route::Phase;

constexpr int64_t kB = 2, kT = 12, kD = 8, kE = 3, kd = 4;

Named mosa(std::initializer_list<std::pair<std::string, Value>> more = {}) {
  Named named{.name = "mosa", .fields = table({{"n_sparse", kE}, {"n_dense", 0}, {"sparsity", 4.0}})};
  for (const auto& [key, value] : more) named.fields.set(key, value);
  return named;
}

Tensor weight(Attention& made, std::string_view name) {
  for (const auto& p : parameters_of(made))
    if (p.name == name) return p.tensor->detach();
  FAIL("no parameter " << name);
  return {};
}

Tensor inputs(int64_t T = kT) {
  return numbers(Random(3), {kB, T, kD}, -1, 1, at::kDouble);
}

// The pairs (i, i + d/2) turned by t / 100^(2 i / d).
Tensor turned(const Tensor& x_d, int64_t t) {
  auto out = x_d.clone();
  for (int64_t i = 0; i < kd / 2; ++i) {
    const auto angle = static_cast<double>(t) * std::pow(100.0, -2.0 * static_cast<double>(i) / kd);
    const auto a = x_d[i].item<double>(), b = x_d[i + kd / 2].item<double>();
    out[i] = a * std::cos(angle) - b * std::sin(angle), out[i + kd / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
  return out;
}

Tensor by_hand(Attention& made, TokenChoice choice, const Tensor& x_BTD) {
  const auto router = weight(made, "token_router"), qkv = weight(made, "sparse_qkv"), out = weight(made, "sparse_out");
  auto y_BTD = at::zeros_like(x_BTD);
  for (int64_t b = 0; b < kB; ++b)
    for (int64_t e = 0; e < kE; ++e) {
      const auto score_T = at::sigmoid(at::matmul(x_BTD[b], router[e]));
      const auto taken =
          ints(choose_tokens(choice, score_T.view({1, 1, -1}), {}, {.sparsity = 4, .least = 2}).nonzero().select(1, 2));
      for (const auto t : taken) {
        const auto part = [&](int64_t which, int64_t at) {
          return at::matmul(qkv[e].slice(0, which * kd, (which + 1) * kd), x_BTD[b][at]);
        };
        double sum = 0;
        auto mixed = at::zeros({kd}, at::kDouble);
        for (const auto s : taken) {
          if (s > t) continue;
          const auto share = std::exp((turned(part(0, t), t) * turned(part(1, s), s)).sum().item<double>() / 2);
          sum += share, mixed += share * part(2, s);
        }
        y_BTD[b][t] += score_T[t] * at::matmul(out[e], mixed / sum);
      }
    }
  return y_BTD;
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "mosa by hand, both choices of tokens") {
  const at::NoGradGuard no_grad;
  const auto made = make_attention(mosa(), {.D = kD});
  const auto x_BTD = inputs();
  CHECK(difference(attend_all(*made, x_BTD, Phase::train).y_ND.view_as(x_BTD),
                   by_hand(*made, TokenChoice::sequence, x_BTD)) < 1e-12);
  CHECK(difference(attend_all(*made, x_BTD).y_ND.view_as(x_BTD), by_hand(*made, TokenChoice::so_far, x_BTD)) < 1e-12);
  CHECK(difference(by_hand(*made, TokenChoice::so_far, x_BTD), by_hand(*made, TokenChoice::sequence, x_BTD)) > 1e-3);
}

TEST_CASE_FIXTURE(OneThread, "mosa that takes every token is ordinary attention, heads weighed by their scores") {
  const at::NoGradGuard no_grad;
  const auto sparse = make_attention(mosa({{"n_sparse", 2}, {"sparsity", 1.0}}), {.D = kD});
  const auto full = make_attention({.name = "full"}, {.D = kD});
  // Scores are 1/2 each, so output weights are doubled.
  for (const auto& p : parameters_of(*sparse))
    if (p.name == "token_router") p.tensor->zero_();
  const auto qkv = weight(*sparse, "sparse_qkv"), out = weight(*sparse, "sparse_out");
  for (const auto& p : parameters_of(*full)) {
    if (p.name == "qkv")
      p.tensor->copy_(at::cat({qkv.slice(1, 0, kd).reshape({-1, kD}), qkv.slice(1, kd, 2 * kd).reshape({-1, kD}),
                               qkv.slice(1, 2 * kd).reshape({-1, kD})}));
    if (p.name == "out") p.tensor->copy_(0.5 * out.transpose(0, 1).reshape({kD, 2 * kd}));
  }
  CHECK(difference(attend_all(*sparse, inputs()).y_ND, attend_all(*full, inputs()).y_ND) < 1e-12);
}

TEST_CASE_FIXTURE(OneThread, "dense heads are added, and are those of full attention") {
  const at::NoGradGuard no_grad;
  const auto both = make_attention(mosa({{"n_dense", 2}}), {.D = kD}), sparse = make_attention(mosa(), {.D = kD}),
             full = make_attention({.name = "full"}, {.D = kD});
  const auto sum = attend_all(*sparse, inputs()).y_ND + attend_all(*full, inputs()).y_ND;
  CHECK(difference(attend_all(*both, inputs()).y_ND, sum) < 1e-12);
}

TEST_CASE_FIXTURE(OneThread, "mosa: the router learns through the scores of what it took, and only there") {
  const auto made = make_attention(mosa(), {.D = kD});
  const auto x_BTD = inputs();
  attend_all(*made, x_BTD, Phase::train).y_ND.square().sum().backward();
  for (const auto& p : parameters_of(*made)) CHECK(p.tensor->grad().abs().max().item<double>() > 1e-3);
}

TEST_CASE_FIXTURE(OneThread, "mosa: costs are those of the taken tokens") {
  const auto made = make_attention(mosa({{"n_dense", 2}, {"n_dense_kv", 1}}), {.D = kD});
  // 128 tokens, every fourth taken: K = 32, so each token meets 3/4 of a sparse head.
  const auto f = made->facts(128);
  const double dense = (2 + 2 * 1 + 2) * kd * kD, router = kE * kD, sparse = 4 * kd * kD;
  CHECK(f.parameters_active == dense + router + 0.75 * sparse);
  CHECK(f.flops_per_token == 2 * dense + 2 * 2 * kd * 128 + 2 * router + 0.75 * (2 * sparse + 2 * kd * 32));
  CHECK(f.cache_bytes_per_token == 2 * kd * 4 + 0.75 * 2 * kd * 4 + kE * (4 + 8.0 / 128));
  CHECK(made->facts(128, at::kBFloat16).cache_bytes_per_token == 2 * kd * 2 + 0.75 * 2 * kd * 2 + kE * (4 + 8.0 / 128));
  CHECK(f.is_causal);
  CHECK_FALSE(f.reads_other_tokens);
  const auto ahead = make_attention(mosa({{"evaluation", "sequence"}}), {.D = kD})->facts(128);
  CHECK_FALSE(ahead.is_causal);
  CHECK(ahead.reads_other_tokens);
  CHECK_FALSE(ahead.gives_probabilities);
}

TEST_CASE_FIXTURE(OneThread, "mosa: the cache keeps what was taken, whatever the pieces") {
  const at::NoGradGuard no_grad;
  const int64_t T = 60;
  const auto made = make_attention(mosa({{"sparsity", 10.0}}), {.D = kD});
  const auto whole = attend_all(*made, inputs(T)).y_ND.view({kB, T, kD});
  for (const int64_t piece : {1, 7, 60}) {
    CAPTURE(piece);
    AttentionCache cache;
    std::vector<Tensor> parts;
    for (int64_t past = 0; past < T; past += piece) {
      const auto n = std::min(piece, T - past);
      auto here = attention_context(*made, kB, n, at::kDouble, past);
      here.cache = &cache;
      const auto part = inputs(T).slice(1, past, past + n).reshape({kB * n, kD});
      parts.push_back(made->forward(part, sequences(kB, n), here).y_ND.view({kB, n, kD}));
    }
    CHECK(difference(at::cat(parts, 1), whole) < 1e-12);
    const auto most = cache.tensors.at(4).max().item<int64_t>();
    CHECK(most <= 6);
    CHECK(most > 2);
    CHECK(cache.tensors.at(2).size(2) == most);
    CHECK(cache.tensors.at(3).size(2) == most);
  }
}

TEST_CASE("mosa: settings that do not fit are refused") {
  const auto reason = [](std::initializer_list<std::pair<std::string, Value>> more) {
    return complaint([&] { make_attention(mosa(more), {.D = kD}); });
  };
  CHECK(reason({{"d_head", 3}}) == "mosa: the head width 3 must be even for rotary positions");
  CHECK(reason({{"n_dense", 3}, {"n_dense_kv", 2}}) == "mosa: n_dense = 3 is not a multiple of n_dense_kv = 2");
  const auto made = make_attention(mosa({{"evaluation", "sequence"}}), {.D = kD});
  AttentionCache cache;
  auto here = attention_context(*made, 1, 3);
  here.cache = &cache;
  CHECK(complaint([&] { made->forward(at::zeros({3, kD}, at::kDouble), sequences(1, 3), here); }) ==
        "mosa: a cache needs a causal choice of tokens (so_far)");
}
