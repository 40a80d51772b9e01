// What of a source goes where: names, shapes, first rows, patterns.
#include "collegium/recipe/starting_point.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

namespace {

using namespace collegium;

struct Tensors {
  Tensor a = at::zeros({4, 3}), b = at::zeros({6, 3}), c = at::zeros({2});
  std::vector<ParameterRef> items() {
    return {{"layers.0.router.weight", &a, ParameterKind::matrix},
            {"layers.1.router.weight", &b, ParameterKind::matrix},
            {"norm", &c, ParameterKind::vector}};
  }
};

const std::vector<NamedShape> kSource = {
    {"layers.0.router.weight", {4, 3}}, {"layers.1.router.weight", {4, 3}}, {"old", {7}}, {"norm", {2}}};

TrainSection section(std::vector<std::string> rows, std::vector<std::string> fresh = {}) {
  TrainSection out;
  out.init_from = "source", out.init_rows = std::move(rows), out.init_fresh = std::move(fresh);
  return out;
}

std::string problem(const std::vector<NamedShape>& source, const TrainSection& train) {
  Tensors model;
  try {
    match_weights(model.items(), source, train, "SOURCE");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("tensors of the same name and shape are taken, first rows where a recipe says so") {
  Tensors model;
  const auto match = match_weights(model.items(), kSource, section({"*.router.weight"}), "SOURCE");
  CHECK(match.taken == std::vector<std::string>{"layers.0.router.weight", "norm"});
  REQUIRE(match.rows.size() == 1);
  CHECK((match.rows[0].name == "layers.1.router.weight" && match.rows[0].taken == 4));
  CHECK(match.left_over == std::vector<std::string>{"old"});
  CHECK(match.fresh.empty());
  CHECK(match.lines() == std::vector<std::string>{"2 tensors taken",
                                                  "first 4 rows taken (4 there, 6 here): layers.*.router.weight",
                                                  "left over: old"});
}

TEST_CASE("fewer rows than the source has are taken, too") {
  Tensors model;
  const auto match = match_weights(model.items(), {{"norm", {2}}, {"layers.0.router.weight", {9, 3}}},
                                   section({"layers.*"}), "SOURCE");
  REQUIRE(match.rows.size() == 1);
  CHECK((match.rows[0].taken == 4 && match.rows[0].there == 9));
  CHECK(match.fresh == std::vector<std::string>{"layers.1.router.weight"});
}

TEST_CASE("what stays new is not taken, and counts as left over") {
  Tensors model;
  const auto match = match_weights(model.items(), kSource, section({}, {"layers.1.*"}), "SOURCE");
  CHECK(match.fresh == std::vector<std::string>{"layers.1.router.weight"});
  CHECK(match.left_over == std::vector<std::string>{"layers.1.router.weight", "old"});
}

TEST_CASE("shapes and patterns that do not fit are errors with names") {
  CHECK(problem(kSource, section({})).find("'layers.1.router.weight' is [4, 3] there and [6, 3] here") !=
        std::string::npos);
  // Only the first number may differ.
  CHECK(problem({{"layers.1.router.weight", {4, 5}}, {"norm", {2}}}, section({"*"})).find("[4, 5] there") !=
        std::string::npos);
  CHECK(problem({{"layers.1.router.weight", {4}}, {"norm", {2}}}, section({"*"})).find("[4] there") !=
        std::string::npos);
  CHECK(problem(kSource, section({"*.rooter.weight"})).find("did you mean '*.router.weight'?") != std::string::npos);
  CHECK(problem(kSource, section({}, {"nrm"})).find("did you mean 'norm'?") != std::string::npos);
  CHECK(problem({{"old", {7}}}, section({})).find("shares no tensor") != std::string::npos);
}
