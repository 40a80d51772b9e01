// What the first expert tells of a token's class, against numbers worked out by hand.
#include "collegium/train/class_meter.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

namespace {

using namespace collegium;
using namespace collegium::train;

Tensor longs(const std::vector<int64_t>& v) {
  return at::tensor(v, at::kLong);
}

// Each token on one of two experts; -1 = none.
model::ModelOutput routed_to(const std::vector<int64_t>& expert_N) {
  std::vector<int64_t> token, expert;
  for (size_t n = 0; n < expert_N.size(); ++n)
    if (expert_N[n] >= 0) token.push_back(static_cast<int64_t>(n)), expert.push_back(expert_N[n]);
  const auto one = at::ones({static_cast<int64_t>(token.size())}, at::kDouble);
  const auto d = route::Decision::make({longs(token), longs(expert), at::zeros_like(longs(token)), one, one},
                                       static_cast<int64_t>(expert_N.size()), 2);
  model::ModelOutput out;
  out.decisions = {d.with_gates(one)};
  return out;
}

double information(const std::vector<int64_t>& expert_N, const std::vector<int64_t>& class_N, int64_t n_classes) {
  ClassMeter meter(n_classes);
  // In two passes.
  const auto half = static_cast<std::ptrdiff_t>(expert_N.size() / 2);
  meter.add(routed_to({expert_N.begin(), expert_N.begin() + half}), longs({class_N.begin(), class_N.begin() + half}));
  meter.add(routed_to({expert_N.begin() + half, expert_N.end()}), longs({class_N.begin() + half, class_N.end()}));
  nlohmann::json row;
  meter.report(row);
  return row.contains("class_information") ? row["class_information"].get<double>() : -1;
}

}  // namespace

TEST_CASE("class information: 1 when the expert is the class, 0 when it says nothing, by hand between") {
  CHECK(information({0, 1, 0, 1}, {0, 1, 0, 1}, 2) == doctest::Approx(1));
  CHECK(information({0, 1, 1, 0}, {0, 0, 1, 1}, 2) == doctest::Approx(0));
  // Two of four classes on each expert: one of two bits.
  CHECK(information({0, 0, 1, 1}, {0, 1, 2, 3}, 4) == doctest::Approx(0.5));
  // Tokens without an expert or a class do not count.
  CHECK(information({0, 1, -1, 1, 0, 1}, {0, 1, 1, -1, 0, 1}, 2) == doctest::Approx(1));
  CHECK(information({0, 1}, {0, 0}, 2) == -1);
  CHECK(information({0, 1}, {0, 0}, 1) == -1);
}

TEST_CASE("documents are classed by language, else by source") {
  const auto classes = [](const std::vector<std::pair<std::string, std::string>>& id_and_language) {
    std::vector<data::DocumentSpan> documents;
    for (const auto& [id, language] : id_and_language)
      documents.push_back(
          {.id = id, .language = language, .begin = static_cast<int64_t>(documents.size()), .n_tokens = 1});
    return document_classes(data::TokenSet(std::vector<int32_t>(id_and_language.size(), 0), {1}, documents));
  };
  const auto by_language = classes({{"a/1", "eng"}, {"a/2", "deu"}, {"b/1", "eng"}});
  CHECK(by_language.class_of_document == std::vector<int64_t>{0, 1, 0});
  CHECK(by_language.n_classes == 2);
  const auto by_source = classes({{"a/1", "eng"}, {"a/2", "eng"}, {"b/1", "eng"}});
  CHECK(by_source.class_of_document == std::vector<int64_t>{0, 0, 1});
  CHECK(classes({{"1", "eng"}, {"2", "eng"}}).n_classes == 1);
  CHECK(at::equal(classes_of(by_language, longs({2, -1, 1})), longs({0, -1, 1})));
}
