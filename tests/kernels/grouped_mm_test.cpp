#include "collegium/kernels/grouped_mm.h"

#include <torch/csrc/autograd/autograd.h>

#include "check.h"
#include "collegium/kernels/experts.h"

namespace kernels = collegium::kernels;
using kernels::Capability;
using namespace kernels_test;

TEST_CASE("torch's grouped product is chosen for bfloat16 on compute capability 9.0 and later") {
  const auto grouped = [](at::ScalarType type, int64_t width, int64_t hidden, std::optional<Capability> capability) {
    return kernels::choose_product(type, width, hidden, capability).is_grouped;
  };
  CHECK(grouped(at::kBFloat16, 512, 256, Capability{9, 0}));
  CHECK(grouped(at::kBFloat16, 512, 256, Capability{12, 0}));
  CHECK(!grouped(at::kBFloat16, 512, 256, Capability{8, 9}));
  CHECK(!grouped(at::kBFloat16, 512, 256, std::nullopt));
  CHECK(!grouped(at::kFloat, 512, 256, Capability{9, 0}));
  CHECK(!grouped(at::kHalf, 512, 256, Capability{9, 0}));
  CHECK(!grouped(at::kBFloat16, 511, 256, Capability{9, 0}));
  CHECK(!grouped(at::kBFloat16, 512, 252, Capability{9, 0}));
  CHECK(kernels::choose_product(at::kBFloat16, 8, 8, Capability{8, 0}).why.find("8.0") != std::string::npos);
  CHECK(!kernels::uses_grouped_mm(at::zeros({2, 8}, at::kBFloat16), at::zeros({1, 8, 8}, at::kBFloat16)));
  CHECK(!kernels::cuda_capability(-1));
  CHECK(!kernels::cuda_capability(1000));
  CHECK(!kernels::cuda_memory_bytes(-1));
  CHECK(!kernels::cuda_memory_bytes(1000));
  CHECK(kernels::cuda_products_report(std::nullopt).find("no CUDA device") != std::string::npos);
  CHECK(kernels::cuda_products_report(Capability{9, 0}).find("_grouped_mm") != std::string::npos);
  CHECK(kernels::cuda_products_report(Capability{8, 6}).find("loop over the experts in every type") !=
        std::string::npos);
}

TEST_CASE("experts by torch's grouped product equal the loop over experts, on the CPU as everywhere") {
  const Random random(3);
  const int64_t n_tokens = 20, width = 32, hidden = 16, n_experts = 5;
  for (const auto kind : {kernels::ExpertKind::swiglu, kernels::ExpertKind::gelu})
    for (const int64_t n_idle : {0, 7})
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        CAPTURE(n_idle);
        CAPTURE(c10::toString(type));
        const int64_t parts = kind == kernels::ExpertKind::swiglu ? 2 : 1;
        const auto normal = [&](const char* name, at::IntArrayRef sizes, double std) {
          return random.at(name).normal(sizes, std, type).requires_grad_();
        };
        const auto x = normal("x", {n_tokens, width}, 1), gate = normal("gate", {40}, 1),
                   first = normal("first", {n_experts, parts * hidden, width}, 0.2),
                   second = normal("second", {n_experts, width, hidden}, 0.2);
        const auto token = random_ids(random.at("token"), 40, n_tokens);
        const auto n_rows = 40 - n_idle;
        const auto offset = at::tensor({int64_t{0}, int64_t{9}, int64_t{9}, int64_t{20}, int64_t{21}, n_rows});
        const auto inputs = std::vector<Tensor>{x, gate, first, second};
        const auto ours = kernels::grouped_mm_experts(kind, x, gate, token, offset.slice(0, 1).to(at::kInt), first,
                                                      second, n_idle == 0);
        const auto function =
            kind == kernels::ExpertKind::swiglu ? kernels::plain::swiglu_experts : kernels::plain::gelu_experts;
        const auto wanted = function(x, gate.slice(0, 0, n_rows), token.slice(0, 0, n_rows), offset, first, second);
        const double bound = type == at::kFloat ? 1e-5 : 3e-2;
        CHECK(difference(ours.detach(), wanted.detach()) < bound);
        const auto grad = random.at("grad").normal(x.sizes(), 1, type);
        const auto a = torch::autograd::grad({ours}, inputs, {grad}),
                   b = torch::autograd::grad({wanted}, inputs, {grad});
        for (size_t i = 0; i < inputs.size(); ++i) CHECK(difference(a[i], b[i]) < bound);
      }
}
