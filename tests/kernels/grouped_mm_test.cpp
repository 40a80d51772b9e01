#include "collegium/kernels/grouped_mm.h"

#include "check.h"

namespace kernels = collegium::kernels;
using kernels::Capability;
using namespace kernels_test;

// Old torches have none to choose.
#if __has_include(<ATen/ops/_grouped_mm.h>)
constexpr bool has_product = true;
#else
constexpr bool has_product = false;
#endif

TEST_CASE("torch's grouped product is chosen for bfloat16 on compute capability 9.0 and later") {
  const auto grouped = [](at::ScalarType type, int64_t width, int64_t hidden, std::optional<Capability> capability) {
    return kernels::choose_product(type, width, hidden, capability).is_grouped;
  };
  CHECK(grouped(at::kBFloat16, 512, 256, Capability{9, 0}) == has_product);
  CHECK(grouped(at::kBFloat16, 512, 256, Capability{12, 0}) == has_product);
  CHECK(!grouped(at::kBFloat16, 512, 256, Capability{8, 9}));
  CHECK(!grouped(at::kBFloat16, 512, 256, std::nullopt));
  CHECK(!grouped(at::kFloat, 512, 256, Capability{9, 0}));
  CHECK(!grouped(at::kHalf, 512, 256, Capability{9, 0}));
  CHECK(!grouped(at::kBFloat16, 511, 256, Capability{9, 0}));
  CHECK(!grouped(at::kBFloat16, 512, 252, Capability{9, 0}));
  CHECK((kernels::choose_product(at::kBFloat16, 8, 8, Capability{8, 0}).why.find("8.0") != std::string::npos) ==
        has_product);
  CHECK(!kernels::uses_grouped_mm(at::zeros({2, 8}, at::kBFloat16), at::zeros({1, 8, 8}, at::kBFloat16)));
  CHECK(!kernels::cuda_capability(-1));
  CHECK(!kernels::cuda_capability(1000));
  CHECK(!kernels::cuda_memory_bytes(-1));
  CHECK(!kernels::cuda_memory_bytes(1000));
  CHECK(kernels::cuda_products_report(std::nullopt).find("no CUDA device") != std::string::npos);
  CHECK((kernels::cuda_products_report(Capability{9, 0}).find("_grouped_mm") != std::string::npos) == has_product);
  CHECK(kernels::cuda_products_report(Capability{8, 6}).find("loop over the experts in every type") !=
        std::string::npos);
}
