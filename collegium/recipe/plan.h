// What a recipe will cost, before any work.
#pragma once
#include "collegium/recipe/recipe.h"
#include "collegium/recipe/run.h"

namespace collegium {

struct Plan {
  model::ModelFacts facts;
  double train_flops_per_token = 0;        ///< forward and backward
  double memory_bytes = 0;                 ///< where it trains, at its peak; on a CPU of the whole process
  bool is_memory_probed = false;           ///< from steps on this machine, else from a formula
  std::optional<double> memory_available;  ///< where it trains, see memory_of
  double checkpoint_bytes = 0;             ///< one checkpoint
  double disk_bytes = 0;                   ///< all that are kept at once
  double disk_available = 0;
  int64_t tokens = 0;
  std::optional<double> tokens_per_second;  ///< measured on this machine; absent when it does not fit or was not asked
  std::optional<double> seconds;
  std::vector<std::string> start;        ///< what would be taken of the weights that it starts from, for people
  std::optional<int64_t> source_tokens;  ///< of a recipe that has to be trained first
  std::vector<std::string> refusals;     ///< why it would not work; empty = it fits
};

/// Bytes that a run on `device` may take: on a CPU what is free now, of a CUDA device all that its driver says it has.
/// Absent where nobody tells.
std::optional<double> memory_of(at::Device device);

/// Plans the run where memory_of(setting.device) is there to take. The vocabulary is that of the config (an upper bound
/// where the tokenizer is still to be trained). With `measure`, steps with one and two sequences tell
/// whether the whole batch can be tried, which then tells its memory; where it might not fit, steps with one and two
/// quarters of the batch tell how memory grows with it. Only if it fits, a copy of the model is trained on random data
/// for about `measure_seconds`. Without, memory comes from a formula, and steps are only made before it would refuse.
Plan make_plan(const RunConfig& config, const RunSetting& setting, bool measure, double measure_seconds = 4);

/// The same with so many bytes of memory; absent: not known, and nothing is refused for it.
Plan make_plan_within(std::optional<double> memory, const RunConfig& config, const RunSetting& setting, bool measure,
                      double measure_seconds = 4);

/// Throws an Error of kind refused that lists the refusals, if any.
void refuse_if_too_large(const Plan& plan);

/// `make()`, whose complaints about how parts fit together are told with the recipe's path.
template <class Make>
auto in_recipe(const std::string& path, const Make& make) {
  try {
    return make();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;
    throw Error(error.kind(), text(path, ": ", error.what()), error.hint());
  }
}

/// Builds the models of both sides without memory or data: parts that do not fit together are a usage Error with the
/// recipe's path (and the baseline's name), long before they would be trained; so is a source whose weights do not fit.
void require_buildable(const Recipe& recipe, const RunSetting& setting);

}  // namespace collegium
