#include "collegium/kernels/assignments.h"

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

namespace {

kernels::Assigned random_list(int64_t rows, int64_t tokens, int64_t experts, at::ScalarType type, bool is_ascending) {
  const Random random(static_cast<uint64_t>(rows + experts));
  auto token_R = random_ids(random.at("t"), rows, tokens);
  if (is_ascending) token_R = std::get<0>(token_R.sort());
  return {token_R, random_ids(random.at("e"), rows, experts), random_ids(random.at("r"), rows, 8),
          random.at("s").normal({rows}, 1, type), random.at("m").normal({rows}, 1, type)};
}

void check_same(const kernels::SortedAssignments& a, const kernels::SortedAssignments& b) {
  CHECK(at::equal(a.sorted.token_R, b.sorted.token_R));
  CHECK(at::equal(a.sorted.expert_R, b.sorted.expert_R));
  CHECK(at::equal(a.sorted.rank_R, b.sorted.rank_R));
  CHECK(same_bits(a.sorted.score_R, b.sorted.score_R));
  CHECK(same_bits(a.sorted.margin_R, b.sorted.margin_R));
  CHECK(at::equal(a.slot_R, b.slot_R));
  CHECK(at::equal(a.offset_E1, b.offset_E1));
}

}  // namespace

TEST_CASE("sorting assignments equals two stable sorts, on any number of threads") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const bool is_ascending : {true, false})
      for (const int64_t rows : {0, 1, 9, 300, 20000})
        for (const int64_t experts : {1, 8, 67}) {
          const auto list = random_list(rows, 50, experts, type, is_ascending);
          const auto wanted = kernels::plain::sort_assignments(list, 50, experts);
          for (const int threads : {1, 2}) {
            const Threads scope(threads);
            check_same(kernels::sort_assignments(list, 50, experts), wanted);
          }
        }
}

TEST_CASE("sorting assignments takes strided columns and unlike types") {
  auto list = random_list(40, 10, 4, at::kFloat, true);
  list.expert_R = at::stack({list.expert_R, list.rank_R}, 1).select(1, 0);
  check_same(kernels::sort_assignments(list, 10, 4), kernels::plain::sort_assignments(list, 10, 4));
  list.margin_R = list.margin_R.to(at::kDouble);
  check_same(kernels::sort_assignments(list, 10, 4), kernels::plain::sort_assignments(list, 10, 4));
}

TEST_CASE("sorting assignments refuses what does not fit") {
  for (const auto sort : {kernels::sort_assignments, kernels::plain::sort_assignments}) {
    auto list = random_list(6, 4, 3, at::kFloat, true);
    list.expert_R[2].fill_(3);
    CHECK(complaint([&] { sort(list, 4, 3); }).find("[0, 3), got 3") != std::string::npos);
    list = random_list(6, 4, 3, at::kFloat, true);
    list.token_R[5].fill_(4);
    CHECK(complaint([&] { sort(list, 4, 3); }).find("[0, 4), got 4") != std::string::npos);
    list = random_list(6, 4, 3, at::kFloat, true);
    list.rank_R = list.rank_R.slice(0, 0, 5);
    CHECK(complaint([&] { sort(list, 4, 3); }).find("rank of [6]") != std::string::npos);
    list = random_list(6, 4, 3, at::kFloat, true);
    list.score_R = list.rank_R;
    CHECK(complaint([&] { sort(list, 4, 3); }).find("score") != std::string::npos);
  }
}
