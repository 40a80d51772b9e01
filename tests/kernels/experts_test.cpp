#include "collegium/kernels/experts.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "check.h"
#include "collegium/kernels/group.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

struct Case {
  const char* what;
  int64_t n_tokens, width, n_experts, hidden;
  std::function<Tensor(const Random&)> experts;  // expert of each row
};

std::vector<Case> cases() {
  return {
      {"no rows", 3, 5, 4, 6, [](const Random&) { return at::empty({0}, at::kLong); }},
      {"one row", 1, 3, 2, 1, [](const Random&) { return at::ones({1}, at::kLong); }},
      {"one expert only", 5, 8, 1, 7, [](const Random&) { return at::zeros({11}, at::kLong); }},
      {"empty experts", 9, 33, 8, 20, [](const Random& r) { return random_ids(r, 30, 3) * 2 + 1; }},
      {"all rows on one of many", 70, 40, 6, 24, [](const Random&) { return at::full({150}, 4, at::kLong); }},
      {"few rows each", 20, 48, 32, 65, [](const Random& r) { return random_ids(r, 60, 32); }},
      {"many rows", 90, 64, 4, 130, [](const Random& r) { return random_ids(r, 700, 4); }},
  };
}

struct Inputs {
  Tensor x_ND, gate_R, token_R, offset_E1, first_EHD, second_EDI;
  std::vector<Tensor> differentiable() const { return {x_ND, gate_R, first_EHD, second_EDI}; }
};

Inputs make_inputs(const Case& is, int64_t parts, at::ScalarType type) {
  const Random random(static_cast<uint64_t>(is.n_tokens * 1000 + is.hidden));
  const auto expert_R = is.experts(random.at("experts"));
  const auto grouped = kernels::group_by_expert(expert_R, is.n_experts);
  const auto n_rows = expert_R.numel();
  const auto normal = [&](const char* name, at::IntArrayRef sizes, double std) {
    return random.at(name).normal(sizes, std, type).requires_grad_();
  };
  const double std = 1 / std::sqrt(static_cast<double>(is.width));
  return {normal("x", {is.n_tokens, is.width}, 1),
          normal("gate", {n_rows}, 1),
          random_ids(random.at("tokens"), n_rows, is.n_tokens),
          grouped.offset_E1,
          normal("first", {is.n_experts, parts * is.hidden, is.width}, std),
          normal("second", {is.n_experts, is.width, is.hidden}, std)};
}

// The result and every gradient, for a gradient of the result that is drawn once.
std::vector<Tensor> with_gradients(const Tensor& out, const std::vector<Tensor>& inputs) {
  const auto grad = Random(99).normal(out.sizes(), 1, at::kDouble).to(out.scalar_type());
  std::vector<Tensor> all = {out.detach()};
  std::vector<Tensor> grads(inputs.size());
  if (out.requires_grad())
    grads = torch::autograd::grad({out}, inputs, {grad}, std::nullopt, false, /*allow_unused=*/true);
  for (size_t i = 0; i < inputs.size(); ++i) all.push_back(grads[i].defined() ? grads[i] : at::zeros_like(inputs[i]));
  return all;
}

void check_all_close(const std::vector<Tensor>& a, const std::vector<Tensor>& b, double bound) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(a[i].sizes() == b[i].sizes());
    CHECK((a[i].scalar_type() == b[i].scalar_type()));
    CHECK(difference(a[i], b[i]) < bound);
  }
}

using ExpertsFunction = Tensor (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                   const Tensor&);
struct Fused {
  const char* name;
  int64_t parts;
  ExpertsFunction fast, plain;
};
const Fused fused_functions[] = {{"swiglu_experts", 2, kernels::swiglu_experts, kernels::plain::swiglu_experts},
                                 {"gelu_experts", 1, kernels::gelu_experts, kernels::plain::gelu_experts}};

Tensor run_fused(ExpertsFunction function, const Inputs& in) {
  return function(in.x_ND, in.gate_R, in.token_R, in.offset_E1, in.first_EHD, in.second_EDI);
}

}  // namespace

TEST_CASE("fused experts equal the loop over experts, gradients too") {
  for (const auto& function : fused_functions)
    for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
      for (const auto& is : cases()) {
        CAPTURE(function.name);
        CAPTURE(is.what);
        CAPTURE(c10::toString(type));
        const auto in = make_inputs(is, function.parts, type);
        // The plain version rounds each step to bfloat16, ours sums in float: each may be off by a few roundings.
        const double bound = type == at::kBFloat16 ? 4e-2 : tolerance(type) * 4;
        check_all_close(with_gradients(run_fused(function.fast, in), in.differentiable()),
                        with_gradients(run_fused(function.plain, in), in.differentiable()), bound);
        const at::NoGradGuard no_grad;
        CHECK(difference(run_fused(function.fast, in), run_fused(function.plain, in)) < bound);
      }
}

TEST_CASE("fused experts give the same bits for any number of threads, with and without gradients") {
  for (const auto& function : fused_functions)
    for (const auto type : {at::kFloat, at::kBFloat16})
      for (const auto& is : cases()) {
        CAPTURE(function.name);
        CAPTURE(is.what);
        const auto in = make_inputs(is, function.parts, type);
        std::vector<Tensor> first;
        for (const int threads : {1, 2, 3}) {
          const Threads scope(threads);
          const auto all = with_gradients(run_fused(function.fast, in), in.differentiable());
          if (first.empty()) first = all;
          for (size_t i = 0; i < all.size(); ++i) CHECK(same_bits(all[i], first[i]));
          const at::NoGradGuard no_grad;
          CHECK(same_bits(run_fused(function.fast, in), first[0]));
        }
      }
}

TEST_CASE("fused experts equal finite differences") {
  for (const auto& function : fused_functions) {
    const Case is{"small", 4, 3, 3, 2, [](const Random& r) { return random_ids(r, 9, 2) * 2; }};
    const auto in = make_inputs(is, function.parts, at::kDouble);
    const auto value = [&] { return run_fused(function.fast, in).cos().sum(); };
    const auto grads = torch::autograd::grad({value()}, in.differentiable());
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < grads.size(); ++i) {
      auto flat = in.differentiable()[i].view(-1);
      for (int64_t j = 0; j < flat.numel(); ++j) {
        const double before = flat[j].item<double>(), step = 1e-6;
        flat[j].fill_(before + step);
        const double above = value().item<double>();
        flat[j].fill_(before - step);
        const double below = value().item<double>();
        flat[j].fill_(before);
        CHECK(std::abs(grads[i].view(-1)[j].item<double>() - (above - below) / (2 * step)) < 1e-7);
      }
    }
  }
}

TEST_CASE("fused experts compute only the gradients that are wanted") {
  for (const auto& function : fused_functions) {
    const auto in = make_inputs(cases()[3], function.parts, at::kDouble);
    const auto wanted = with_gradients(run_fused(function.plain, in), in.differentiable());
    for (size_t only = 0; only < 4; ++only) {
      auto inputs = in.differentiable();
      for (size_t i = 0; i < 4; ++i) inputs[i] = inputs[i].detach().requires_grad_(i == only);
      const auto out = function.fast(inputs[0], inputs[1], in.token_R, in.offset_E1, inputs[2], inputs[3]);
      const auto grad = Random(99).normal(out.sizes(), 1, at::kDouble);
      out.backward(grad);
      for (size_t i = 0; i < 4; ++i) CHECK(inputs[i].grad().defined() == (i == only));
      CHECK(difference(inputs[only].grad(), wanted[only + 1]) < 1e-12);
    }
  }
}

TEST_CASE("fused experts take a float gate with bfloat16 experts, and strided inputs") {
  auto in = make_inputs(cases()[5], 2, at::kBFloat16);
  in.gate_R = in.gate_R.detach().to(at::kFloat).requires_grad_();
  const auto all = with_gradients(run_fused(kernels::swiglu_experts, in), in.differentiable());
  CHECK((all[2].scalar_type() == at::kFloat));
  check_all_close(all, with_gradients(run_fused(kernels::plain::swiglu_experts, in), in.differentiable()), 4e-2);

  auto strided = make_inputs(cases()[5], 2, at::kDouble);
  const auto wanted = run_fused(kernels::swiglu_experts, strided);
  strided.x_ND = strided.x_ND.t().contiguous().t();
  strided.first_EHD = strided.first_EHD.transpose(1, 2).contiguous().transpose(1, 2);
  strided.token_R = at::stack({strided.token_R, strided.token_R}, 1).select(1, 0);
  CHECK(same_bits(run_fused(kernels::swiglu_experts, strided).detach(), wanted.detach()));
}

TEST_CASE("an expert's rows do not depend on its other rows, to the bit") {
  const auto in = make_inputs(cases()[6], 2, at::kFloat);
  const at::NoGradGuard no_grad;
  const auto x_RD = kernels::gather_rows(in.x_ND, in.token_R);
  const auto all = kernels::grouped_linear(x_RD, in.first_EHD, in.offset_E1);
  const auto first_rows = in.offset_E1[1].item<int64_t>();
  const auto alone = kernels::grouped_linear(x_RD.slice(0, first_rows - 1, first_rows), in.first_EHD,
                                             at::tensor({0, 1, 1, 1, 1}, at::kLong));
  CHECK(same_bits(alone, all.slice(0, first_rows - 1, first_rows)));
}

TEST_CASE("the parts equal their plain versions, gradients too") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const auto& is : cases()) {
      CAPTURE(is.what);
      CAPTURE(c10::toString(type));
      const auto in = make_inputs(is, 2, type);
      const auto n_rows = in.token_R.numel();
      const double bound = tolerance(type) * 2;
      const auto x_RD = Random(1).normal({n_rows, is.width}, 1, type).requires_grad_();
      const auto h_RH = Random(2).normal({n_rows, 2 * is.hidden}, 2, type).requires_grad_();
      const auto gate_R = in.gate_R;

      check_all_close(
          with_gradients(kernels::grouped_linear(x_RD, in.first_EHD, in.offset_E1), {x_RD, in.first_EHD}),
          with_gradients(kernels::plain::grouped_linear(x_RD, in.first_EHD, in.offset_E1), {x_RD, in.first_EHD}),
          bound);
      check_all_close(with_gradients(kernels::swiglu(h_RH), {h_RH}),
                      with_gradients(kernels::plain::swiglu(h_RH), {h_RH}), bound);
      check_all_close(with_gradients(kernels::gather_rows(in.x_ND, in.token_R), {in.x_ND}),
                      with_gradients(kernels::plain::gather_rows(in.x_ND, in.token_R), {in.x_ND}), bound);
      check_all_close(with_gradients(kernels::combine(x_RD, gate_R, in.token_R, is.n_tokens), {x_RD, gate_R}),
                      with_gradients(kernels::plain::combine(x_RD, gate_R, in.token_R, is.n_tokens), {x_RD, gate_R}),
                      bound);
    }
}

TEST_CASE("the parts, put together, equal the fused experts") {
  const auto in = make_inputs(cases()[6], 2, at::kDouble);
  const auto h_RH = kernels::grouped_linear(kernels::gather_rows(in.x_ND, in.token_R), in.first_EHD, in.offset_E1);
  const auto y_RD = kernels::grouped_linear(kernels::swiglu(h_RH), in.second_EDI, in.offset_E1);
  const auto out = kernels::combine(y_RD, in.gate_R, in.token_R, in.x_ND.size(0));
  check_all_close(with_gradients(out, in.differentiable()),
                  with_gradients(run_fused(kernels::swiglu_experts, in), in.differentiable()), 1e-12);
}

TEST_CASE("gradients large enough for large pages are right, zeros included") {
  const Random random(23);
  const auto x_RD = random.at("x").normal({20, 512}, 1, at::kFloat);
  const auto weight_EHD = random.at("w").normal({12, 256, 512}, 1, at::kFloat).requires_grad_();
  const auto offset_E1 = at::tensor({0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 19, 20, 20}, at::kLong);
  check_all_close(with_gradients(kernels::grouped_linear(x_RD, weight_EHD, offset_E1), {weight_EHD}),
                  with_gradients(kernels::plain::grouped_linear(x_RD, weight_EHD, offset_E1), {weight_EHD}), 1e-5);
}

TEST_CASE("combine sums a token's rows in ascending order for any number of threads") {
  const Random random(17);
  const auto y_RD = random.at("y").normal({4000, 37}, 1, at::kFloat),
             gate_R = random.at("g").normal({4000}, 1, at::kFloat);
  const auto token_R = random_ids(random.at("t"), 4000, 50);
  const auto wanted = at::zeros({50, 37});
  for (int64_t r = 0; r < 4000; ++r) {
    auto row = wanted[token_R[r].item<int64_t>()];
    row.copy_(row.to(at::kDouble) + gate_R[r].to(at::kDouble) * y_RD[r].to(at::kDouble));
  }
  Tensor first;
  for (const int threads : {1, 2}) {
    const Threads scope(threads);
    const auto out = kernels::combine(y_RD, gate_R, token_R, 50);
    CHECK(difference(out, wanted) < 1e-5);
    if (first.defined()) CHECK(same_bits(out, first));
    first = out;
  }
}

TEST_CASE("experts refuse what does not fit") {
  const auto in = make_inputs(cases()[3], 2, at::kFloat);
  const auto says = [](const std::string& message, const char* part) {
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
  };
  const auto with = [&](auto change) {
    auto changed = in;
    change(changed);
    return complaint([&] { run_fused(kernels::swiglu_experts, changed); });
  };
  says(with([](Inputs& i) { i.token_R = i.token_R + 100; }), "token ids must be in [0, 9)");
  says(with([](Inputs& i) { i.token_R = i.token_R - 100; }), "token ids must be in");
  says(with([](Inputs& i) { i.token_R = i.token_R.to(at::kInt); }), "token must be int64");
  says(with([](Inputs& i) { i.offset_E1 = i.offset_E1.slice(0, 1); }), "one more than the experts");
  says(with([](Inputs& i) { i.offset_E1 = i.offset_E1 + 1; }), "from 0 to");
  says(with([](Inputs& i) { i.offset_E1 = at::tensor({0, 9, 5, 9, 9, 9, 9, 9, 30}, at::kLong); }), "never fall");
  says(with([](Inputs& i) { i.second_EDI = i.second_EDI.to(at::kDouble); }), "one type");
  says(with([](Inputs& i) { i.second_EDI = i.second_EDI.slice(2, 1); }), "2 I");
  says(with([](Inputs& i) { i.gate_R = i.gate_R.slice(0, 1); }), "gate [R]");
  says(with([](Inputs& i) { i.gate_R = at::ones({30}, at::kLong); }), "gate must be floating point");
  says(complaint([] { kernels::swiglu(at::zeros({2, 3})); }), "2 I");
  says(complaint([] { kernels::gather_rows(at::zeros({2, 3}), at::full({1}, 2, at::kLong)); }), "[0, 2)");
  says(complaint([] { kernels::grouped_linear(at::zeros({2, 3}), at::zeros({1, 4, 5}), at::zeros({2}, at::kLong)); }),
       "grouped_linear");
}

TEST_CASE("a second derivative is refused with advice") {
  const auto in = make_inputs(cases()[5], 2, at::kDouble);
  const auto out = run_fused(kernels::swiglu_experts, in);
  const auto message = complaint(
      [&] { torch::autograd::grad({out.sum()}, {in.x_ND}, {}, /*retain_graph=*/true, /*create_graph=*/true); });
  CHECK(message.find("no derivative of its own") != std::string::npos);
}
