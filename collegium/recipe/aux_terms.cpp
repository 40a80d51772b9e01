#include "collegium/recipe/aux_terms.h"

#include <ATen/ATen.h>

#include "collegium/recipe/measures.h"
#include "collegium/recipe/run.h"

namespace collegium {
namespace {

// A term that comes on 2 % of the steps shows with a probability of 1 - 0.98^400 = 0.9997.
constexpr uint64_t kMostPasses = 400;

void check_side(const RunConfig& run, const Expectation& e, std::string_view side) {
  const auto term = aux_term_of(e.measure);
  if (term.empty()) return;
  const auto known = aux_terms(run, term);
  if (known.count(term)) return;
  const auto near = nearest(term, {known.begin(), known.end()});
  fail(ErrorKind::usage, "expect ", e.measure, ": ", side, " logs no auxiliary term '", term, "'",
       near.empty() ? "" : text("; did you mean '", near, "'?"),
       " (it logs: ", known.empty() ? "none" : join({known.begin(), known.end()}), ")");
}

}  // namespace

std::set<std::string> aux_terms(const RunConfig& run, const std::string& wanted) {
  constexpr int64_t B = 2, T = 16, V = 257;
  const auto model = build_model(run, V, at::kCPU);
  const auto random = Random(static_cast<uint64_t>(run.seed)).at("aux terms");
  std::set<std::string> out;
  if (run.train.consistency > 0) out.insert("consistency");
  for (uint64_t pass = 0; pass < kMostPasses && !out.count(wanted); ++pass) {
    const auto here = random.at(pass);
    const auto token_BT =
        (here.at("token").uniform({B, T}, 0, 1, at::TensorOptions().dtype(at::kDouble)) * static_cast<double>(V))
            .floor()
            .to(at::kLong);
    const auto made = model->forward(token_BT, {.phase = route::Phase::train, .random = here});
    for (const auto& term : made.losses) out.insert(train::short_term_name(term.name));
    model->step();
  }
  return out;
}

void check_aux_terms(const Recipe& recipe) {
  for (const auto& e : recipe.expectations) {
    check_side(recipe.run, e, "the recipe's side");
    const bool is_comparison = e.relation == Relation::below_baseline || e.relation == Relation::above_baseline;
    if (is_comparison && recipe.has_baseline) check_side(recipe.baseline, e, "the baseline");
  }
}

}  // namespace collegium
