#include "collegium/kernels/group.h"

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

TEST_CASE("grouping equals the stable sort") {
  const Random random(1);
  for (const int64_t n_rows : {0, 1, 7, 300})
    for (const int64_t n_experts : {1, 4, 65}) {
      const auto expert_R = random_ids(random.at(static_cast<uint64_t>(n_rows * 100 + n_experts)), n_rows, n_experts);
      const auto fast = kernels::group_by_expert(expert_R, n_experts);
      const auto plain = kernels::plain::group_by_expert(expert_R, n_experts);
      CHECK(at::equal(fast.order_R, plain.order_R));
      CHECK(at::equal(fast.offset_E1, plain.offset_E1));
      CHECK(fast.offset_E1[n_experts].item<int64_t>() == n_rows);
    }
}

TEST_CASE("grouping keeps the order inside an expert") {
  const auto grouped = kernels::group_by_expert(at::tensor({2, 0, 2, 0, 2}, at::kLong), 4);
  CHECK(at::equal(grouped.order_R, at::tensor({1, 3, 0, 2, 4}, at::kLong)));
  CHECK(at::equal(grouped.offset_E1, at::tensor({0, 2, 2, 5, 5}, at::kLong)));
}

TEST_CASE("grouping takes strided ids and no experts") {
  const auto expert_NK = at::tensor({1, 9, 0, 9, 1, 9}, at::kLong).view({3, 2});
  CHECK(at::equal(kernels::group_by_expert(expert_NK.select(1, 0), 2).order_R, at::tensor({1, 0, 2}, at::kLong)));
  CHECK(kernels::group_by_expert(at::empty({0}, at::kLong), 0).offset_E1.numel() == 1);
}

TEST_CASE("grouping refuses ids out of range") {
  for (const auto group : {kernels::group_by_expert, kernels::plain::group_by_expert}) {
    CHECK(complaint([&] { group(at::tensor({0, 3}, at::kLong), 3); }).find("[0, 3), got 3") != std::string::npos);
    CHECK(complaint([&] { group(at::tensor({0, -1}, at::kLong), 3); }).find("got -1") != std::string::npos);
    CHECK(complaint([&] { group(at::tensor({0, 1}, at::kInt), 3); }).find("int64") != std::string::npos);
  }
}
