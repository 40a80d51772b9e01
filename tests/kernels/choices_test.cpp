#include "collegium/kernels/choices.h"

#include "check.h"
#include "collegium/kernels/group.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

TEST_CASE("choices are sorted as group_by_expert sorts them, those without work left out") {
  const Random random(4);
  const int64_t E = 6;
  for (const int64_t tokens : {0, 1, 40})
    for (const auto type : {at::kLong, at::kInt})
      for (const auto gate_type : {at::kFloat, at::kDouble}) {
        CAPTURE(tokens);
        const int64_t K = 3;
        const auto id = random_ids(random.at("id"), tokens * K, E + 2).reshape({tokens, K});  // the last two: no work
        const auto gate = random.at("gate").normal({tokens, K}, 1, at::kFloat);
        const auto got = kernels::sort_choices(id.to(type), gate, E, gate_type);
        const auto all = kernels::group_by_expert(id.reshape({-1}).clamp_max(E), E + 1);
        const auto rows = all.offset_E1[E].item<int64_t>();
        const auto order = all.order_R.slice(0, 0, rows);
        CHECK(at::equal(got.offset_E1, all.offset_E1.slice(0, 0, E + 1)));
        CHECK(at::equal(got.place_R, order));
        CHECK(at::equal(got.token_R, order.floor_divide(K)));
        CHECK(at::equal(got.gate_R, gate.reshape({-1}).index_select(0, order).to(gate_type)));
        CHECK((got.gate_R.scalar_type() == gate_type));
      }
}

TEST_CASE("choices that are wrong are refused") {
  const auto gate = at::ones({2, 2});
  const auto refused = [&](const Tensor& id) {
    try {
      kernels::sort_choices(id, gate, 4, at::kFloat);
    } catch (const collegium::Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(refused(at::full({2, 2}, -1, at::kLong)).find("must be in [0, 4)") != std::string::npos);
  CHECK(refused(at::ones({2, 2}, at::kShort)).find("int64 or int32") != std::string::npos);
  CHECK(refused(at::ones({3, 2}, at::kLong)).find("as many gates") != std::string::npos);
}
