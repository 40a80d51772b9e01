// Scores mixed between the tokens of a sequence: equal to a plain loop, causal, nothing between sequences, masked
// tokens without influence, bounds of the entropy, derivatives.
//
// N tokens, B sequences of T tokens, D model width, E experts.
#include "collegium/route/mix.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 8, kWidth = 5, kExperts = 3;

std::unique_ptr<Scorer> mixed(const std::string& name,
                              std::initializer_list<std::pair<std::string, Value>> fields = {}) {
  const Named named{.name = name, .fields = table(fields)};
  auto made = find(scorers(), named, "scorer")
                  .make(named, {.d_model = kWidth, .n_experts = kExperts, .random = Random(4), .options = at::kDouble});
  scale_parameters(*made, 8);
  return made;
}

// The wrapped scorer alone.
Tensor unmixed(Scorer& scorer, const Tensor& x_ND) {
  return at::linear(x_ND, *parameters_of(scorer)[0].tensor).softmax(-1).detach();
}

Tensor hidden(uint64_t seed = 1, int64_t n = kTokens) {
  return numbers(Random(seed), {n, kWidth}, -2, 2, at::kDouble);
}

Context context_with_attention(int64_t n_sequences) {
  auto context = context_of(kTokens, n_sequences);
  context.attention_BTT = some_attention(n_sequences, kTokens / n_sequences, at::kDouble);
  return context;
}

double entropy(const double* p, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i)
    if (p[i] > 0) sum -= p[i] * std::log(p[i]);
  return sum;
}

const std::vector<std::string> kBoth = {"similarity_mixed", "attention_mixed"};

}  // namespace

TEST_CASE("mixed scores equal a plain loop, and their entropy keeps its bounds") {
  for (const auto& name : kBoth)
    for (const int64_t n_sequences : {1, 2})
      for (const bool has_mask : {false, true}) {
        CAPTURE(name);
        CAPTURE(n_sequences);
        CAPTURE(has_mask);
        const double temperature = 1.3;
        const auto scorer = name == "similarity_mixed" ? mixed(name, {{"temperature", temperature}}) : mixed(name);
        auto context = context_with_attention(n_sequences);
        if (has_mask) context.mask_N = at::tensor(std::vector<int64_t>{1, 0, 1, 1, 0, 1, 1, 0}).to(at::kBool);
        const auto x_ND = hidden();
        const auto got = reals(scorer->score(x_ND, context).score_NE), alone = reals(unmixed(*scorer, x_ND));
        const auto x = reals(x_ND), attention = reals(context.attention_BTT);
        const auto real = has_mask ? ints(context.mask_N) : std::vector<int64_t>(kTokens, 1);
        const size_t T = static_cast<size_t>(kTokens / n_sequences), D = kWidth, E = kExperts;
        for (size_t n = 0; n < kTokens; ++n) {
          if (!real[n]) continue;
          const auto first = n / T * T;
          std::vector<double> weight;
          double sum = 0, mean_entropy = 0;
          for (size_t s = first; s <= n; ++s) {
            double inner = 0;
            for (size_t d = 0; d < D; ++d) inner += x[n * D + d] * x[s * D + d];
            const auto w =
                name == "similarity_mixed" ? std::exp(inner / temperature) : attention[(n / T * T + n % T) * T + s % T];
            weight.push_back(real[s] ? w : 0);
            sum += weight.back();
          }
          std::vector<double> wanted(E);
          for (size_t s = first; s <= n; ++s) {
            weight[s - first] /= sum;
            for (size_t e = 0; e < E; ++e) wanted[e] += weight[s - first] * alone[s * E + e];
            mean_entropy += weight[s - first] * entropy(&alone[s * E], E);
          }
          for (size_t e = 0; e < E; ++e) CHECK(got[n * E + e] == doctest::Approx(wanted[e]));
          // The exact part of the paper's statement: between the mean entropy of what is mixed, and that plus the
          // entropy of the weights. So a token becomes more decided where those it listens to are.
          const auto mixture = entropy(&got[n * E], E);
          CHECK(mixture >= mean_entropy - 1e-12);
          CHECK(mixture <= mean_entropy + entropy(weight.data(), weight.size()) + 1e-12);
        }
      }
}

TEST_CASE("an undecided token that is like decided ones becomes decided; between opposites it does not") {
  const auto entropy_of = [](const Tensor& x_ND) {
    const auto scorer = mixed("similarity_mixed", {{"temperature", 0.2}});
    {
      const at::NoGradGuard no_grad;
      auto& weight_ED = *parameters_of(*scorer)[0].tensor;
      weight_ED.zero_();
      weight_ED[0][0] = 20, weight_ED[1][1] = 20;
    }
    const auto score = reals(scorer->score(x_ND, context_of(3)).score_NE[2]);
    return std::pair{entropy(score.data(), kExperts), entropy(reals(unmixed(*scorer, x_ND)[2]).data(), kExperts)};
  };
  auto x_ND = at::zeros({3, kWidth}, at::kDouble);
  x_ND.select(1, 4).fill_(1);                             // all alike in what the experts do not see
  x_ND[0][0] = 0.9, x_ND[1][0] = 0.9, x_ND[2][0] = 0.05;  // the last one leans only a little
  const auto [among_friends, alone] = entropy_of(x_ND);
  CHECK(among_friends < alone);
  x_ND[1][0] = 0, x_ND[1][1] = 0.9, x_ND[2][0] = 0.9, x_ND[2][1] = 0.7;
  const auto [between, by_itself] = entropy_of(x_ND);
  CHECK(between > by_itself);
}

TEST_CASE("mixing is causal, and nothing passes between sequences") {
  for (const auto& name : kBoth) {
    CAPTURE(name);
    const auto scorer = mixed(name);
    CHECK(scorer->claims().reads_other_tokens);
    CHECK(scorer->claims().is_causal);
    const auto context = context_with_attention(2);
    const auto before = scorer->score(hidden(), context).score_NE.detach();
    for (const int64_t n : {1, 3, 5}) {
      auto x_ND = hidden().clone();
      x_ND[n].copy_(5 * hidden(9)[n]);
      const auto after = scorer->score(x_ND, context).score_NE.detach();
      const auto T = kTokens / 2, end = (n / T + 1) * T;
      CHECK(same_bits(after.slice(0, 0, n), before.slice(0, 0, n)));
      CHECK(same_bits(after.slice(0, end), before.slice(0, end)));
      if (n + 1 < end) CHECK(difference(after[n + 1], before[n + 1]) > 1e-4);
    }
  }
  // Attention that looks ahead is not believed.
  const auto scorer = mixed("attention_mixed");
  auto context = context_with_attention(1), ahead = context;
  ahead.attention_BTT = context.attention_BTT + at::ones({kTokens, kTokens}, at::kDouble).triu(1);
  CHECK(
      same_bits(scorer->score(hidden(), ahead).score_NE.detach(), scorer->score(hidden(), context).score_NE.detach()));
}

TEST_CASE("sequences of different lengths are mixed each by itself") {
  const auto scorer = mixed("similarity_mixed");
  auto context = context_of(kTokens);
  context.sequence_N = at::tensor(std::vector<int64_t>{0, 0, 0, 2, 2, 2, 2, 2});
  context.n_sequences = 4;  // the second and the last are empty
  const auto all = scorer->score(hidden(), context).score_NE;
  const auto part = [&](int64_t from, int64_t to) {
    return scorer->score(hidden().slice(0, from, to), context_of(to - from)).score_NE;
  };
  CHECK(same_bits(all.detach(), at::cat({part(0, 3), part(3, 8)}).detach()));
}

TEST_CASE("the loops that mix equal ordinary operations, in values and derivatives") {
  for (const auto by : {MixBy::logit, MixBy::share})
    for (const bool has_mask : {false, true}) {
      CAPTURE(has_mask);
      const int64_t T = 7;
      auto between_TT = numbers(Random(1), {T, T}, 0.1, 2, at::kDouble).requires_grad_(true);
      auto score_TE = numbers(Random(2), {T, kExperts}, 0, 1, at::kDouble).requires_grad_(true);
      const auto real_T =
          has_mask ? at::tensor(std::vector<int64_t>{0, 0, 1, 1, 0, 1, 1}).to(at::kBool) : Tensor();  // two have none
      const auto along = numbers(Random(3), {T, kExperts}, -1, 1, at::kDouble);
      const auto run = [&](auto mix) {
        between_TT.mutable_grad() = Tensor(), score_TE.mutable_grad() = Tensor();
        const auto out_TE = mix(between_TT, score_TE, real_T, by);
        (out_TE * along).sum().backward();
        return std::vector<Tensor>{out_TE.detach(), between_TT.grad(), score_TE.grad()};
      };
      const auto fast = run(mix_earlier), slow = run(plain::mix_earlier);
      for (size_t i = 0; i < fast.size(); ++i) CHECK(difference(fast[i], slow[i]) < 1e-12);
      const auto report =
          check_gradients([&] { return Evaluated{mix_earlier(between_TT, score_TE, real_T, by), Tensor()}; },
                          {{"between", between_TT}, {"score", score_TE}});
      CAPTURE(report.where);
      CHECK(report.worst < 1e-8);
    }
}

TEST_CASE("derivatives of mixed scores, through attention too") {
  for (const auto& name : kBoth) {
    CAPTURE(name);
    const auto scorer = mixed(name);
    auto x_ND = hidden(1, 4).requires_grad_(true);
    auto context = context_of(4);
    context.attention_BTT = some_attention(1, 4, at::kDouble).requires_grad_(true);
    std::vector<Variable> variables = {{"x", x_ND}, {"weight", *parameters_of(*scorer)[0].tensor}};
    if (name == "attention_mixed") variables.push_back({"attention", context.attention_BTT});
    const auto report =
        check_gradients([&] { return Evaluated{scorer->score(x_ND, context).score_NE, Tensor()}; }, variables);
    CAPTURE(report.where);
    CHECK(report.worst < 1e-7);
    CHECK(report.largest > 1e-2);
  }
}

TEST_CASE("what cannot be mixed is refused") {
  CHECK(complaint([] { mixed("similarity_mixed", {{"of", "none"}}); }).find("no scores to mix") != std::string::npos);
  CHECK(complaint([] { mixed("attention_mixed", {{"of", "frequency_mask"}}); }).find("open them again") !=
        std::string::npos);
  const auto scorer = mixed("attention_mixed");
  auto context = context_of(kTokens);
  context.attention_BTT = some_attention(1, 3);
  CHECK(complaint([&] { scorer->score(hidden(), context); }).find("over 8 tokens") != std::string::npos);
}
