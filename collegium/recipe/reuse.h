// Finished runs count as done: the same configuration and seed are not trained twice.
#pragma once
#include <optional>

#include "collegium/recipe/run.h"

namespace collegium {

/// The newest finished run of this configuration and seed below the runs root, one of this code before others. The name
/// of what it started from does not count, the weights do. Changes nothing.
std::optional<io::Path> finished_run(const RunConfig& config, const RunSetting& setting, Reuse reuse);

/// That run, or a new one called `name` where there is none. An Error of kind interrupted or data where it was not
/// finished.
io::Path finished_or_trained(RunConfig config, int64_t seed, const std::string& name, const std::string& recipe_path,
                             const RunSetting& setting, Reuse reuse);

}  // namespace collegium
