// Optimisers against their formulas, schedules at their corners.
//
// E experts.
#include "collegium/train/optimizer.h"

#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::train;
using namespace collegium::test;

// Parameters with gradients that the test sets.
struct Weights {
  std::vector<std::pair<std::string, ParameterKind>> what;
  std::vector<Tensor> tensors;

  Weights(std::vector<std::pair<std::string, ParameterKind>> kinds, const std::vector<std::vector<int64_t>>& sizes,
          at::ScalarType type = at::kDouble)
      : what(std::move(kinds)) {
    for (size_t i = 0; i < sizes.size(); ++i)
      tensors.push_back(numbers(Random(1).at(i), sizes[i], -1, 1, type).requires_grad_(true));
  }
  std::vector<ParameterRef> list() {
    std::vector<ParameterRef> out;
    for (size_t i = 0; i < tensors.size(); ++i) out.push_back({what[i].first, &tensors[i], what[i].second});
    return out;
  }
  void set_gradients(uint64_t step) {
    for (size_t i = 0; i < tensors.size(); ++i)
      tensors[i].mutable_grad() =
          numbers(Random(2).at(i).at(step), tensors[i].sizes(), -1, 1, tensors[i].scalar_type());
  }
};

std::unique_ptr<Optimizer> make_optimizer(const Named& named, Weights& weights) {
  return find(optimizers(), named, "optimizer").make(named, {.parameters = weights.list()});
}

std::unique_ptr<Schedule> make_schedule(const Named& named, int64_t steps) {
  return find(schedules(), named, "schedule").make(named, {.steps = steps});
}

Weights usual(at::ScalarType type = at::kDouble) {
  return Weights(
      {{"matrix", ParameterKind::matrix}, {"table", ParameterKind::embedding}, {"gain", ParameterKind::vector}},
      {{2, 6, 4}, {5, 3}, {7}}, type);
}

// The quintic iteration of Muon, one matrix, step by step.
Tensor newton_schulz(Tensor x, int64_t steps) {
  const bool is_tall = x.size(0) > x.size(1);
  if (is_tall) x = x.t();
  x = x / x.norm();
  for (int64_t i = 0; i < steps; ++i) {
    const auto gram = at::mm(x, x.t());
    x = 3.4445 * x - 4.7750 * at::mm(gram, x) + 2.0315 * at::mm(gram, at::mm(gram, x));
  }
  return is_tall ? x.t() : x;
}

}  // namespace

TEST_CASE("AdamW is its formula over several steps; vectors are not decayed") {
  const double lr = 0.02, beta1 = 0.8, beta2 = 0.9, epsilon = 1e-3, decay = 0.3;
  auto weights = usual();
  const auto optimizer = make_optimizer(
      {.name = "adamw",
       .fields =
           table({{"lr", lr}, {"beta1", beta1}, {"beta2", beta2}, {"epsilon", epsilon}, {"weight_decay", decay}})},
      weights);
  CHECK(optimizer->learning_rate() == lr);
  std::vector<std::vector<double>> value, mean, square;
  for (const auto& t : weights.tensors) {
    value.push_back(reals(t));
    mean.emplace_back(value.back().size()), square.emplace_back(value.back().size());
  }
  for (int step = 1; step <= 6; ++step) {
    weights.set_gradients(static_cast<uint64_t>(step));
    const double factor = 1.0 / step;
    optimizer->step(factor);
    for (size_t i = 0; i < value.size(); ++i) {
      const auto g = reals(weights.tensors[i].grad());
      const bool is_vector = weights.what[i].second == ParameterKind::vector;
      for (size_t j = 0; j < g.size(); ++j) {
        value[i][j] -= is_vector ? 0 : lr * factor * decay * value[i][j];
        mean[i][j] = beta1 * mean[i][j] + (1 - beta1) * g[j];
        square[i][j] = beta2 * square[i][j] + (1 - beta2) * g[j] * g[j];
        const auto m = mean[i][j] / (1 - std::pow(beta1, step)), v = square[i][j] / (1 - std::pow(beta2, step));
        value[i][j] -= lr * factor * m / (std::sqrt(v) + epsilon);
      }
      const auto now = reals(weights.tensors[i]);
      for (size_t j = 0; j < now.size(); ++j) CHECK(now[j] == doctest::Approx(value[i][j]).epsilon(1e-9));
    }
  }
}

TEST_CASE("every optimiser leaves parameters without a gradient as they are, and moves against the others' gradient") {
  for (const auto* e : optimizers()) {
    CAPTURE(e->card.name);
    auto weights = usual();
    const auto optimizer = make_optimizer({.name = std::string(e->card.name)}, weights);
    const auto before = weights.tensors;
    std::vector<Tensor> copies;
    for (const auto& t : weights.tensors) copies.push_back(t.detach().clone());
    weights.set_gradients(1);
    weights.tensors[1].mutable_grad() = Tensor();
    optimizer->step(1);
    CHECK(same_bits(weights.tensors[1].detach(), copies[1]));
    for (const size_t i : {size_t{0}, size_t{2}}) {
      const auto moved = weights.tensors[i].detach() - copies[i];
      CHECK((moved * weights.tensors[i].grad()).sum().item<double>() < 0);
      CHECK(weights.tensors[i].requires_grad());
      CHECK(weights.tensors[i].is_same(before[i]));  // in place: the model's own tensor
    }
    const auto still = weights.tensors[0].detach().clone();
    optimizer->step(0);
    CHECK(same_bits(weights.tensors[0].detach(), still));
  }
}

TEST_CASE("every optimiser goes on from saved state to the bit, and its state is in buffers") {
  for (const auto* e : optimizers())
    for (const auto type : {at::kFloat, at::kDouble}) {
      CAPTURE(e->card.name);
      auto first = usual(type), second = usual(type);
      const auto a = make_optimizer({.name = std::string(e->card.name)}, first);
      for (uint64_t step = 0; step < 3; ++step) first.set_gradients(step), a->step(1);
      const auto b = make_optimizer({.name = std::string(e->card.name)}, second);
      for (const auto& p : parameters_of(*a)) CHECK_FALSE(p.trained());
      const auto state = save(*a);
      CHECK(load(*b, state) == state.size());
      {
        const at::NoGradGuard no_grad;
        for (size_t i = 0; i < first.tensors.size(); ++i) second.tensors[i].copy_(first.tensors[i]);
      }
      for (uint64_t step = 3; step < 6; ++step)
        for (auto* weights : {&first, &second}) weights->set_gradients(step), (weights == &first ? a : b)->step(0.5);
      for (size_t i = 0; i < first.tensors.size(); ++i)
        CHECK(same_bits(first.tensors[i].detach(), second.tensors[i].detach()));
      CHECK(same_state(save(*a), save(*b)));
    }
}

TEST_CASE("Muon's direction is nearly orthogonal and keeps the gradient's singular vectors") {
  for (const auto& size : std::vector<std::vector<int64_t>>{{24, 8}, {8, 24}, {16, 10}, {3, 20, 6}}) {
    CAPTURE(size.size());
    Weights weights({{"m", ParameterKind::matrix}}, {size});
    const double lr = 0.1;
    const auto optimizer = make_optimizer(
        {.name = "muon", .fields = table({{"lr", lr}, {"momentum", 0.0}, {"weight_decay", 0.0}})}, weights);
    const auto before = weights.tensors[0].detach().clone();
    weights.set_gradients(1);
    optimizer->step(1);
    const auto longest = static_cast<double>(std::max(size[size.size() - 1], size[size.size() - 2]));
    const auto direction = (weights.tensors[0].detach() - before) / (-lr * 0.2 * std::sqrt(longest));
    const auto [u, s, v] = at::linalg_svd(direction, false);
    CHECK(s.min().item<double>() >= 0.5);
    CHECK(s.max().item<double>() <= 1.3);
    // Same singular vectors: direction^T gradient is symmetric and positive.
    const auto product = at::matmul(direction.transpose(-2, -1), weights.tensors[0].grad());
    CHECK(difference(product, product.transpose(-2, -1)) < 1e-9);
    CHECK(at::linalg_eigvalsh(product).min().item<double>() > -1e-9);
  }
}

TEST_CASE("Muon is its formula over several steps, each expert by itself") {
  const double lr = 0.05, momentum = 0.7, decay = 0.2;
  const Named muon{.name = "muon", .fields = table({{"lr", lr}, {"momentum", momentum}, {"weight_decay", decay}})};
  Weights weights({{"experts", ParameterKind::matrix}}, {{3, 8, 5}});
  const auto optimizer = make_optimizer(muon, weights);
  // The same experts as three parameters.
  Weights apart({{"a", ParameterKind::matrix}, {"b", ParameterKind::matrix}, {"c", ParameterKind::matrix}},
                {{8, 5}, {8, 5}, {8, 5}});
  {
    const at::NoGradGuard no_grad;
    for (int64_t e = 0; e < 3; ++e) apart.tensors[static_cast<size_t>(e)].copy_(weights.tensors[0][e]);
  }
  const auto by_one = make_optimizer(muon, apart);
  std::vector<Tensor> value, mean;
  for (int64_t e = 0; e < 3; ++e)
    value.push_back(weights.tensors[0].detach()[e].clone()), mean.push_back(at::zeros({8, 5}, at::kDouble));
  for (uint64_t step = 0; step < 4; ++step) {
    weights.set_gradients(step);
    const double factor = 1 - 0.2 * static_cast<double>(step);
    for (int64_t e = 0; e < 3; ++e) {
      const auto i = static_cast<size_t>(e);
      const auto g = weights.tensors[0].grad()[e].clone();
      apart.tensors[i].mutable_grad() = g;
      mean[i] = momentum * mean[i] + (1 - momentum) * g;
      const auto nesterov = (1 - momentum) * g + momentum * mean[i];
      value[i] = value[i] * (1 - lr * factor * decay) - lr * factor * 0.2 * std::sqrt(8.0) * newton_schulz(nesterov, 5);
    }
    optimizer->step(factor), by_one->step(factor);
    for (int64_t e = 0; e < 3; ++e) {
      const auto i = static_cast<size_t>(e);
      CHECK(difference(weights.tensors[0][e], value[i]) < 1e-9);
      CHECK(difference(apart.tensors[i], value[i]) < 1e-9);
    }
  }
}

TEST_CASE("Muon gives what is no matrix to AdamW") {
  auto weights = usual(), others = usual();
  const auto muon = make_optimizer({.name = "muon", .fields = table({{"lr", 0.01}})}, weights);
  const auto adamw = make_optimizer({.name = "adamw", .fields = table({{"lr", 0.01}})}, others);
  for (uint64_t step = 0; step < 3; ++step) {
    weights.set_gradients(step), others.set_gradients(step);
    muon->step(1), adamw->step(1);
  }
  CHECK_FALSE(same_bits(weights.tensors[0].detach(), others.tensors[0].detach()));
  CHECK(same_bits(weights.tensors[1].detach(), others.tensors[1].detach()));
  CHECK(same_bits(weights.tensors[2].detach(), others.tensors[2].detach()));
}

TEST_CASE("Muon's adam_lr is the rate of what is no matrix, and of nothing else") {
  auto weights = usual(), same_rate = usual(), others = usual();
  const auto muon = make_optimizer({.name = "muon", .fields = table({{"lr", 0.03}, {"adam_lr", 0.01}})}, weights);
  const auto one_rate = make_optimizer({.name = "muon", .fields = table({{"lr", 0.03}})}, same_rate);
  const auto adamw = make_optimizer({.name = "adamw", .fields = table({{"lr", 0.01}})}, others);
  for (auto* w : {&weights, &same_rate, &others}) w->set_gradients(0);
  for (auto* o : {&muon, &one_rate, &adamw}) (*o)->step(1);
  CHECK(same_bits(weights.tensors[0].detach(), same_rate.tensors[0].detach()));
  for (const size_t i : {size_t{1}, size_t{2}}) {
    CHECK(same_bits(weights.tensors[i].detach(), others.tensors[i].detach()));
    CHECK_FALSE(same_bits(weights.tensors[i].detach(), same_rate.tensors[i].detach()));
  }
}

TEST_CASE("warm-up rises to one and stays") {
  CHECK(warmup_factor(0, 4) == 0.25);
  CHECK(warmup_factor(2, 4) == 0.75);
  CHECK(warmup_factor(3, 4) == 1);
  CHECK(warmup_factor(100, 4) == 1);
  CHECK(warmup_factor(0, 0) == 1);
}

TEST_CASE("schedules at their corners") {
  const auto constant = make_schedule({.name = "constant", .fields = table({{"warmup", 2}})}, 10);
  CHECK(constant->factor(0) == 0.5);
  CHECK(constant->factor(1) == 1);
  CHECK(constant->factor(9) == 1);

  const auto cosine = make_schedule({.name = "cosine", .fields = table({{"warmup", 10}, {"floor", 0.2}})}, 110);
  CHECK(cosine->factor(0) == doctest::Approx(0.1));
  CHECK(cosine->factor(9) == doctest::Approx(1));
  CHECK(cosine->factor(10) == doctest::Approx(1));
  CHECK(cosine->factor(60) == doctest::Approx(0.6));  // half way down to 0.2
  CHECK(cosine->factor(109) == doctest::Approx(0.2).epsilon(0.01));
  CHECK(cosine->factor(110) == doctest::Approx(0.2));
  CHECK(cosine->factor(500) == doctest::Approx(0.2));

  const auto wsd =
      make_schedule({.name = "wsd", .fields = table({{"warmup", 10}, {"decay", 0.25}, {"floor", 0.1}})}, 100);
  CHECK(wsd->factor(0) == doctest::Approx(0.1));
  CHECK(wsd->factor(9) == 1);
  CHECK(wsd->factor(75) == 1);
  CHECK(wsd->factor(76) == doctest::Approx(0.1 + 0.9 * 24 / 25));
  CHECK(wsd->factor(99) == doctest::Approx(0.1 + 0.9 / 25));
  const auto endless = make_schedule({.name = "wsd", .fields = table({{"warmup", 0}, {"decay", 0.0}})}, 100);
  for (const int64_t step : {0, 50, 99}) CHECK(endless->factor(step) == 1);
  const auto falling = make_schedule({.name = "wsd", .fields = table({{"warmup", 0}, {"decay", 1.0}})}, 4);
  CHECK(falling->factor(0) == 1);
  CHECK(falling->factor(3) == 0.25);
}

TEST_CASE("every schedule stays in [0, 1] and is at the top after its warm-up") {
  for (const auto* e : schedules())
    for (const int64_t steps : {1, 7, 200}) {
      CAPTURE(e->card.name);
      CAPTURE(steps);
      const auto schedule = make_schedule({.name = std::string(e->card.name)}, steps);
      double highest = 0;
      for (int64_t step = 0; step < steps; ++step) {
        const auto factor = schedule->factor(step);
        CHECK((factor >= 0 && factor <= 1));
        highest = std::max(highest, factor);
      }
      if (steps == 200) CHECK(highest == 1);
    }
}
