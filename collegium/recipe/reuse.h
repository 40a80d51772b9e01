// Finished runs count as done: the same configuration and seed are not trained twice.
#pragma once
#include <optional>

#include "collegium/recipe/run.h"

namespace collegium {

/// The newest finished run of this configuration and seed below the runs root, one of this code before others. The name
/// of what it started from does not count, the weights do. Changes nothing.
std::optional<io::Path> finished_run(const RunConfig& config, const RunSetting& setting, Reuse reuse);

/// The newest interrupted run of exactly this configuration, seed and code below the runs root. One that was killed is
/// not known from one that another process is at, so it does not count.
std::optional<io::Run> interrupted_run(const RunConfig& config, const RunSetting& setting);

/// The finished run; or else the interrupted one, gone on with; or a new one called `name`. An Error of kind
/// interrupted or data where it was not finished.
io::Path finished_or_trained(RunConfig config, int64_t seed, const std::string& name, const std::string& recipe_path,
                             const RunSetting& setting, Reuse reuse);

}  // namespace collegium
