#include "collegium/recipe/aux_terms.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "collegium/recipe/expectations.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

// A term that comes on 2 % of the steps shows with a probability of 1 - 0.98^400 = 0.9997.
constexpr int64_t kMostPasses = 400;

void check_side(const RunConfig& run, const Expectation& e, std::string_view side) {
  const auto term = aux_term_of(e.measure);
  if (term.empty()) return;
  const auto known = aux_terms(run, term);
  if (known.count(term)) return;
  const auto near = nearest(term, {known.begin(), known.end()});
  fail(ErrorKind::usage, subject_of(e), side, " logs no auxiliary term '", term, "'",
       near.empty() ? "" : text("; did you mean '", near, "'?"),
       " (it logs: ", known.empty() ? "none" : join({known.begin(), known.end()}), ")");
}

}  // namespace

std::set<std::string> aux_terms(const RunConfig& run, const std::string& wanted) {
  auto small = run;
  small.train.batch_size = 2, small.train.accumulation = 1;
  if (has_text(small)) small.train.context = std::min<int64_t>(16, small.train.context);
  const auto workload = task_of(small)->imagine(small);
  const auto model = workload->build_model(at::kCPU);
  const auto task = workload->learn(*model, at::kCPU);
  std::set<std::string> out;
  for (int64_t step = 0; step < kMostPasses && !out.count(wanted); ++step) {
    for (const auto& term : task->pass(step, 0).output.losses) out.insert(train::short_term_name(term.name));
    model->step();
  }
  return out;
}

void check_aux_terms(const Recipe& recipe) {
  for (const auto& e : recipe.expectations) {
    check_side(recipe.run, e, "the recipe's side");
    if (is_comparison(e) && recipe.has_baseline) check_side(recipe.baseline, e, "the baseline");
  }
}

}  // namespace collegium
