// The loss on rare tokens: which are rare, what counts, and in what unit.
//
// N targets.
#include "collegium/train/rare_meter.h"

#include <ATen/ATen.h>

#include "tests/support/routing.h"

using namespace collegium;
using namespace collegium::train;

namespace {

// Ids 1 and 2 make up 8 of 10 tokens; 3 and 4 are rare, of 2 and 5 bytes. Id 0 never occurs.
data::TokenSet skewed() {
  return {{1, 1, 1, 1, 1, 2, 2, 2, 3, 4}, {1, 1, 1, 2, 5}};
}

}  // namespace

TEST_CASE("the rare ids make up the last fifth of the training tokens") {
  const RareTokens rare(skewed());
  CHECK(test::ints(rare.is_rare_V()) == std::vector<int64_t>{1, 0, 0, 1, 1});
  CHECK(test::ints(rare.n_bytes_V()) == std::vector<int64_t>{1, 1, 1, 2, 5});
}

TEST_CASE("bits per byte of the rare targets that count") {
  const RareTokens rare(skewed());
  RareMeter meter;
  nlohmann::json row = nlohmann::json::object();
  meter.report(row);
  CHECK(row.empty());
  const auto loss_N = at::tensor({1.0, 2.0, 3.0, 100.0}) * std::log(2.0);
  meter.add(rare, loss_N, at::tensor({1, 3, 4, 4}, at::kLong), at::tensor({1, 1, 1, 0}).to(at::kBool));
  meter.add(rare, loss_N, at::tensor({1, 1, 2, 2}, at::kLong), at::ones({4}, at::kBool));
  meter.report(row);
  CHECK(row["rare_bpb"].get<double>() == doctest::Approx(5.0 / 7).epsilon(1e-6));
}
