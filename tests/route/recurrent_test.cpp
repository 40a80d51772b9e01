// The recurrent router: a plain GRU over layers; zeros before the first; gradients reach the layers below.
//
// N tokens, D model width, E experts, H state.
#include <map>

#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

constexpr int64_t kTokens = 5, kWidth = 8, kExperts = 4, kState = 2;

// One layer's scorer; biases away from zero.
std::unique_ptr<Scorer> recurrent(uint64_t seed) {
  const Named named{.name = "recurrent"};
  auto made =
      find(scorers(), named, "scorer")
          .make(named, {.d_model = kWidth, .n_experts = kExperts, .random = Random(seed), .options = at::kDouble});
  const at::NoGradGuard no_grad;
  for (const auto& p : parameters_of(*made))
    p.tensor->copy_(numbers(Random(seed).at(p.name), p.tensor->sizes(), -1, 1, at::kDouble));
  return made;
}

using Matrix = std::vector<std::vector<double>>;
Matrix matrix(const Tensor& t) {
  const auto flat = reals(t);
  const auto columns = static_cast<size_t>(t.dim() == 2 ? t.size(1) : 1);
  Matrix out(static_cast<size_t>(t.size(0)), std::vector<double>(columns));
  for (size_t i = 0; i < flat.size(); ++i) out[i / columns][i % columns] = flat[i];
  return out;
}

// The same for one token, from the equations. Changes `state`; gives the logits.
std::vector<double> by_hand(Scorer& scorer, const std::vector<double>& x, std::vector<double>& state) {
  std::map<std::string, Matrix> w;
  for (const auto& p : parameters_of(scorer)) w[p.name] = matrix(*p.tensor);
  const auto times = [](const Matrix& m, const std::vector<double>& v) {
    std::vector<double> out(m.size());
    for (size_t i = 0; i < m.size(); ++i)
      for (size_t j = 0; j < v.size(); ++j) out[i] += m[i][j] * v[j];
    return out;
  };
  const auto low = times(w["project"], x), a = times(w["input"], low), b = times(w["state"], state);
  const auto from_input = [&](size_t i) { return a[i] + w["input_bias"][i][0]; };
  const auto from_state = [&](size_t i) { return b[i] + w["state_bias"][i][0]; };
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  const auto H = state.size();
  for (size_t h = 0; h < H; ++h) {
    const auto reset = sigmoid(from_input(h) + from_state(h)), update = sigmoid(from_input(H + h) + from_state(H + h));
    const auto candidate = std::tanh(from_input(2 * H + h) + reset * from_state(2 * H + h));
    state[h] = (1 - update) * candidate + update * state[h];
  }
  return times(w["weight"], state);
}

}  // namespace

TEST_CASE("recurrent scores are a plain GRU over the layers, from zeros") {
  std::vector<std::unique_ptr<Scorer>> layers;
  for (uint64_t i = 0; i < 3; ++i) layers.push_back(recurrent(10 + i));
  std::vector<Tensor> x, logit;
  auto context = context_of(kTokens);
  for (size_t i = 0; i < 3; ++i) {
    x.push_back(numbers(Random(i), {kTokens, kWidth}, -1, 1, at::kDouble));
    const auto out = layers[i]->score(x[i], context);
    CHECK((out.carried_NH.sizes() == at::IntArrayRef{kTokens, kState}));
    logit.push_back(out.logit_NE);
    context.carried_NH = out.carried_NH;
  }
  for (int64_t n = 0; n < kTokens; ++n) {
    std::vector<double> state(kState);
    for (size_t i = 0; i < 3; ++i) {
      const auto wanted = by_hand(*layers[i], reals(x[i][n]), state), got = reals(logit[i][n]);
      for (size_t e = 0; e < wanted.size(); ++e) CHECK(got[e] == doctest::Approx(wanted[e]));
    }
  }
}

TEST_CASE("recurrent scores equal torch's GRU cell") {
  const auto scorer = recurrent(3);
  std::map<std::string, Tensor> w;
  for (const auto& p : parameters_of(*scorer)) w[p.name] = *p.tensor;
  const auto x_ND = numbers(Random(1), {kTokens, kWidth}, -1, 1, at::kDouble);
  auto context = context_of(kTokens);
  context.carried_NH = numbers(Random(2), {kTokens, kState}, -1, 1, at::kDouble);
  const auto wanted_NH = at::gru_cell(at::linear(x_ND, w["project"]), context.carried_NH, w["input"], w["state"],
                                      w["input_bias"], w["state_bias"]);
  const auto out = scorer->score(x_ND, context);
  CHECK(difference(out.carried_NH, wanted_NH) < 1e-12);
  CHECK(difference(out.logit_NE, at::linear(wanted_NH, w["weight"])) < 1e-12);
}

TEST_CASE("without a carried state the recurrent router starts from zeros") {
  const auto scorer = recurrent(3);
  const auto x_ND = numbers(Random(1), {kTokens, kWidth}, -1, 1, at::kDouble);
  auto context = context_of(kTokens);
  const auto none = scorer->score(x_ND, context);
  context.carried_NH = at::zeros({kTokens, kState}, at::kDouble);
  CHECK(same_bits(none.logit_NE.detach(), scorer->score(x_ND, context).logit_NE.detach()));
  context.carried_NH = at::ones({kTokens, kState}, at::kDouble);
  CHECK(difference(scorer->score(x_ND, context).logit_NE, none.logit_NE) > 1e-3);
  context.carried_NH = at::ones({kTokens, kState + 1}, at::kDouble);
  CHECK(complaint([&] { scorer->score(x_ND, context); }).find("[5, 2]") != std::string::npos);
}

TEST_CASE("derivatives of recurrent scores through two layers") {
  const auto lower = recurrent(3), upper = recurrent(4);
  auto x_ND = numbers(Random(1), {2, kWidth}, -1, 1, at::kDouble).requires_grad_(true);
  std::vector<Variable> variables = {{"x", x_ND}};
  for (const auto& p : parameters_of(*upper)) variables.push_back({"upper " + p.name, *p.tensor});
  for (const auto& p : parameters_of(*lower)) variables.push_back({"lower " + p.name, *p.tensor});
  const auto report = check_gradients(
      [&] {
        auto context = context_of(2);
        context.carried_NH = lower->score(x_ND, context).carried_NH;
        return Evaluated{upper->score(x_ND * 0.7, context).score_NE, Tensor()};
      },
      variables);
  CAPTURE(report.where);
  CHECK(report.worst < 1e-8);
  CHECK(report.largest > 1e-2);
}

namespace {

// Three layers of one model, or of three.
std::vector<std::unique_ptr<Scorer>> layers_of(const Named& named, bool one_model, int64_t wider = 0) {
  const auto shared = std::make_shared<SharedParts>();
  std::vector<std::unique_ptr<Scorer>> out;
  for (uint64_t i = 0; i < 3; ++i)
    out.push_back(find(scorers(), named, "scorer")
                      .make(named, {.d_model = kWidth + static_cast<int64_t>(i) * wider,
                                    .n_experts = kExperts,
                                    .random = Random(i),
                                    .options = at::kDouble,
                                    .shared = one_model ? shared : nullptr}));
  return out;
}

std::vector<std::string> names_of(Scorer& scorer) {
  std::vector<std::string> out;
  for (const auto& p : parameters_of(scorer)) out.push_back(p.name);
  return out;
}

}  // namespace

TEST_CASE("layers of one model share one cell, which the first lists and all train") {
  const std::vector<std::string> all = {"project", "input", "state", "input_bias", "state_bias", "weight"};
  const std::vector<std::string> own = {"project", "weight"};
  const auto layers = layers_of({.name = "recurrent"}, true);
  CHECK(names_of(*layers[0]) == all);
  CHECK(names_of(*layers[1]) == own);
  CHECK(names_of(*layers[2]) == own);
  for (auto& alone : layers_of({.name = "recurrent"}, false)) CHECK(names_of(*alone) == all);
  for (auto& unshared : layers_of({.name = "recurrent", .fields = table({{"share_cell", false}})}, true))
    CHECK(names_of(*unshared) == all);

  // The last layer's logits reach the shared weights; a tensor put in place of one is what every layer uses.
  const auto x_ND = numbers(Random(7), {kTokens, kWidth}, -1, 1, at::kDouble);
  auto context = context_of(kTokens);
  const auto before = layers[2]->score(x_ND, context).logit_NE;
  before.sum().backward();
  const auto first = parameters_of(*layers[0]);
  CHECK(first[1].tensor->grad().abs().sum().item<double>() > 0);
  CHECK_FALSE(first[0].tensor->grad().defined());
  *first[1].tensor = at::zeros_like(*first[1].tensor);
  CHECK_FALSE(at::equal(layers[2]->score(x_ND, context).logit_NE, before));
}

TEST_CASE("layers whose states differ in width cannot share a cell") {
  CHECK_THROWS_WITH_AS(layers_of({.name = "recurrent"}, true, 8), doctest::Contains("share one cell"), Error);
  CHECK_NOTHROW(layers_of({.name = "recurrent", .fields = table({{"share_cell", false}})}, true, 8));
}
