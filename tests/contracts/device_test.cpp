// What runs on the processor runs on a CUDA device, with the same results: every router, layer, kind of expert and
// attention, in double, so that both make the same discrete choices. Skipped where there is no device.
//
// N tokens, D model width.
#include <ATen/Context.h>

#include "collegium/recipe/machine.h"
#include "tests/support/attention_variants.h"
#include "tests/support/layer_variants.h"
#include "tests/support/router_variants.h"

namespace {

using namespace collegium;
using namespace collegium::test;
using route::Phase;

const at::Device kDevice(at::kCUDA);

// With the algorithms that the command line insists on.
bool has_device() {
  if (at::hasCUDA()) {
    insist_on_repeatable_cuda();
    return true;
  }
  MESSAGE("no CUDA device: nothing was compared");
  return false;
}

at::TensorOptions doubles(const at::Device& device) {
  return at::TensorOptions(at::kDouble).device(device);
}

route::Corpus corpus_on(const at::Device& device) {
  auto corpus = some_corpus();
  corpus.count_V = corpus.count_V.to(device);
  return corpus;
}

route::Context moved(route::Context c, const at::Device& device) {
  for (auto* t : {&c.token_id_N, &c.mask_N, &c.sequence_N, &c.attention_BTT, &c.carried_NH})
    if (t->defined()) *t = t->to(device, t->is_floating_point() ? at::kDouble : t->scalar_type());
  return c;
}

// What a pass gave, named, on the processor.
struct Given {
  std::vector<std::pair<std::string, Tensor>> values;
  void add(std::string name, const Tensor& t) {
    if (t.defined())
      values.emplace_back(std::move(name), t.detach().to(at::kCPU, at::kDouble, /*non_blocking=*/false, /*copy=*/true));
  }
  void add(const route::Decision& d) {
    add("tokens", d.token_R()), add("experts", d.expert_R()), add("ranks", d.rank_R()), add("slots", d.slot_R());
    add("wanted", d.wanted_R()), add("offsets", d.offset_E1()), add("gates", d.gate_R()), add("scores", d.score_R());
    const auto& gone = d.dropped();
    add("dropped tokens", gone.token_Q), add("dropped experts", gone.expert_Q), add("reasons", gone.reason_Q);
  }
  void add(const std::vector<route::LossTerm>& losses) {
    for (const auto& l : losses) add("loss " + l.name, l.value);
  }
};

// Gradients of a value of the pass and its losses, then the state that two training passes and a step leave.
template <class Module>
void add_gradients_and_state(Given& out, Module& module, const Tensor& value,
                             const std::vector<route::LossTerm>& losses, const Tensor& x_ND,
                             const std::function<void()>& train) {
  auto sum = value.square().sum();
  for (const auto& l : losses) sum = sum + l.value;
  if (sum.requires_grad()) sum.backward();
  out.add("gradient of x", x_ND.grad());
  for (const auto& p : parameters_of(module))
    if (p.trained()) out.add("gradient of " + p.name, p.tensor->grad());
  for (const auto& p : parameters_of(module)) CHECK_MESSAGE(p.tensor->device() == x_ND.device(), p.name);
  train(), train(), module.step();
  for (const auto& p : parameters_of(module)) out.add("state " + p.name, *p.tensor);
}

void check_same(const Given& here, const Given& there) {
  REQUIRE(here.values.size() == there.values.size());
  for (size_t i = 0; i < here.values.size(); ++i) {
    CAPTURE(here.values[i].first);
    CHECK(here.values[i].first == there.values[i].first);
    CHECK(difference(there.values[i].second, here.values[i].second) < 1e-9);
  }
}

// Runs `pass` on the processor and on the device; what either throws fails the check and names the variant.
void compare(const std::function<Given(const at::Device&)>& pass) {
  try {
    check_same(pass(at::kCPU), pass(kDevice));
  } catch (const std::exception& error) {
    FAIL_CHECK(error.what());
  }
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "CUDA: every router decides as on the processor") {
  if (!has_device()) return;
  namespace v = router_variants;
  for (const auto& variant : v::everything())
    for (const bool masked : {false, true}) {
      CAPTURE(variant.what);
      CAPTURE(masked);
      compare([&](const at::Device& device) {
        auto inputs = v::stage_inputs();
        inputs.options = doubles(device), inputs.corpus = corpus_on(device);
        const auto router = find(route::routers(), variant.named, "router").make(variant.named, inputs);
        scale_parameters(*router, 4);
        auto context = context_of(v::kTokens, 3, Phase::train);
        if (masked) context.mask_N = at::arange(v::kTokens).remainder(5).ne(2);
        context = moved(context, device);
        auto x_ND = numbers(Random(3), {v::kTokens, v::kWidth}, -1, 1, at::kDouble).to(device).requires_grad_(true);
        const auto r = router->route(x_ND, context);
        Given out;
        out.add(r.decision), out.add(r.losses), out.add("bias", r.bias_E), out.add("all scores", r.scores.score_NE);
        CHECK((r.decision.gate_R().device() == x_ND.device()));
        add_gradients_and_state(out, *router, r.decision.gate_R(), r.losses, x_ND,
                                [&] { router->route(x_ND.detach() * 0.9, context); });
        return out;
      });
    }
}

TEST_CASE_FIXTURE(OneThread, "CUDA: every layer computes what it does on the processor") {
  if (!has_device()) return;
  namespace v = layer_variants;
  for (const auto& variant : v::variants())
    for (const bool masked : {false, true}) {
      CAPTURE(variant.what);
      CAPTURE(masked);
      compare([&](const at::Device& device) {
        const auto made = find(layer::layers(), variant.named, "layer")
                              .make(variant.named, {.d_model = v::kWidth,
                                                    .random = Random(1),
                                                    .options = doubles(device),
                                                    .corpus = corpus_on(device),
                                                    .pool = {}});
        if (made->router()) scale_parameters(*made->router(), 5);
        auto context = context_of(v::kTokens, 2, Phase::train);
        context.record = true;
        if (masked) context.mask_N = at::tensor(std::vector<int64_t>{1, 1, 0, 1, 1, 0}).to(at::kBool);
        context = moved(context, device);
        auto x_ND = numbers(Random(3), {v::kTokens, v::kWidth}, -1, 1, at::kDouble).to(device).requires_grad_(true);
        const auto r = made->forward(x_ND, context);
        const auto y_ND = context.mask_N.defined() ? r.y_ND.index({context.mask_N}) : r.y_ND;
        Given out;
        if (r.decision) out.add(*r.decision);
        out.add("output", y_ND), out.add(r.losses);
        CHECK((r.y_ND.device() == x_ND.device()));
        for (const auto& s : r.statistics) out.add(s.name, at::full({}, s.sum));
        add_gradients_and_state(out, *made, y_ND, r.losses, x_ND, [&] { made->forward(x_ND.detach() * 0.9, context); });
        return out;
      });
    }
}

TEST_CASE_FIXTURE(OneThread, "CUDA: every kind of attention computes what it does on the processor") {
  if (!has_device()) return;
  namespace v = attention_variants;
  const int64_t B = 2, T = 6;
  for (const auto& variant : v::variants())
    for (const bool masked : {false, true}) {
      CAPTURE(variant.what);
      CAPTURE(masked);
      compare([&](const at::Device& device) {
        const auto made = find(layer::attentions(), variant.named, "attention")
                              .make(variant.named, {.d_model = variant.sizes.D,
                                                    .n_heads = variant.sizes.H,
                                                    .n_kv_heads = variant.sizes.G,
                                                    .init_std = 0.6,
                                                    .branch_std = 0.6,
                                                    .random = Random(1),
                                                    .options = doubles(device),
                                                    .corpus = {}});
        auto routing = sequences(B, T, Phase::train);
        layer::AttentionContext here{.B = B, .T = T};
        here.rotation = kernels::rotation(0, T, made->facts(T).d_head, 100, doubles(device));
        if (masked) {
          const auto mask = at::tensor(std::vector<int64_t>{1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0}).to(at::kBool);
          set_mask(routing, here, mask.reshape({B, T}));
          here.key_mask_BT = here.key_mask_BT.to(device);
        }
        routing = moved(routing, device);
        auto x_ND = numbers(Random(3), {B * T, variant.sizes.D}, -1, 1, at::kDouble).to(device).requires_grad_(true);
        const auto r = made->forward(x_ND, routing, here);
        const auto y_ND = routing.mask_N.defined() ? r.y_ND.index({routing.mask_N}) : r.y_ND;
        Given out;
        if (r.decision) out.add(*r.decision);
        out.add("output", y_ND), out.add(r.losses);
        add_gradients_and_state(out, *made, y_ND, r.losses, x_ND,
                                [&] { made->forward(x_ND.detach() * 0.9, routing, here); });
        return out;
      });
    }
}

TEST_CASE_FIXTURE(OneThread, "CUDA: every kind of expert, in the types that models are trained in") {
  if (!has_device()) return;
  for (const auto* e : layer::experts())
    for (const auto& [type, limit] : std::vector<std::pair<at::ScalarType, double>>{
             {at::kDouble, 1e-9}, {at::kFloat, 1e-5}, {at::kBFloat16, 0.05}}) {
      CAPTURE(e->card.name);
      CAPTURE(std::string(at::toString(type)));
      const int64_t E = 5, D = 16, N = 40;
      const auto run = [&, type = type](const at::Device& device) {
        const auto made =
            e->make({.name = std::string(e->card.name)}, {.n_experts = E,
                                                          .d_model = D,
                                                          .d_expert = 8,
                                                          .random = Random(2),
                                                          .options = at::TensorOptions(type).device(device)});
        const Named top_k{.name = "top_k"};
        const auto router =
            find(route::routers(), top_k, "router")
                .make(top_k, {.d_model = D, .n_experts = E, .random = Random(3), .options = doubles(device)});
        scale_parameters(*router, 5);
        const auto x_ND = numbers(Random(4), {N, D}, -1, 1, at::kBFloat16).to(device);
        const auto decision = router->route(x_ND.to(at::kDouble), moved(context_of(N), device)).decision;
        auto there_ND = x_ND.to(type).requires_grad_(true);
        const auto y_ND = made->forward(there_ND, decision);
        y_ND.square().sum().backward();
        std::vector<Tensor> all = {y_ND.detach(), there_ND.grad()};
        for (const auto& p : parameters_of(*made)) all.push_back(p.tensor->grad());
        for (auto& t : all) t = t.to(at::kCPU);
        return all;
      };
      const auto here = run(at::kCPU), there = run(kDevice);
      REQUIRE(here.size() == there.size());
      for (size_t i = 0; i < here.size(); ++i) CHECK(difference(there[i], here[i]) < limit);
    }
}
