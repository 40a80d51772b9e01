#include "collegium/recipe/reuse.h"

#include "collegium/io/json.h"
#include "collegium/recipe/starting_point.h"
#include "collegium/recipe/toml.h"

namespace collegium {
namespace {

bool is_of_this_code(const io::Run& run, const RunSetting& setting) {
  if (setting.code.empty()) return run.git_commit == setting.git_commit;
  const auto path = io::Path(run.folder) / "env.json";
  auto& fs = io::real_file_system();
  return fs.exists(path) && io::parse_json(io::read_text(fs, path), path.string()).value("code", "") == setting.code;
}

// What a run computes: a source is known by its weights, wherever it stood.
Table computed(RunConfig config) {
  auto out = resolved(config);
  if (auto* train = out.find("train"); train && !config.train.init_weights.empty())
    std::get<Table>(train->data).set("init_from", "");
  return out;
}

// Whether a stored configuration is `wanted`. One of older code lacks the fields that are new since: they count as
// what they are when nobody sets them, and a configuration that this code cannot read is another one.
bool is_configuration(const std::string& stored, const RunConfig& wanted, Reuse reuse) {
  if (stored == to_toml(resolved(wanted))) return true;
  if (reuse == Reuse::this_code && wanted.train.init_from.empty()) return false;
  try {
    return computed(read_run_config(parse_toml(stored, "config.toml"))) == computed(wanted);
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::optional<io::Path> finished_run(const RunConfig& config, const RunSetting& setting, Reuse reuse) {
  auto& fs = io::real_file_system();
  if (!fs.exists(setting.runs_root)) return {};
  io::RunStore store(setting.runs_root);
  std::optional<io::Path> other;
  for (const auto& run : store.list()) {
    const io::Path folder = run.folder;
    if (run.status != io::RunStatus::finished || run.seed != config.seed) continue;
    if (!fs.exists(folder / "config.toml")) continue;
    if (!is_configuration(io::read_text(fs, folder / "config.toml"), config, reuse)) continue;
    if (is_of_this_code(run, setting)) return folder;
    if (reuse == Reuse::any_code && !other) other = folder;
  }
  return other;
}

std::optional<io::Run> interrupted_run(const RunConfig& config, const RunSetting& setting) {
  auto& fs = io::real_file_system();
  if (!fs.exists(setting.runs_root)) return {};
  io::RunStore store(setting.runs_root);
  const auto wanted = to_toml(resolved(config));
  for (const auto& run : store.list()) {
    const auto written = io::Path(run.folder) / "config.toml";
    if (run.status != io::RunStatus::interrupted || run.seed != config.seed || !fs.exists(written)) continue;
    if (io::read_text(fs, written) == wanted && is_of_this_code(run, setting)) return run;
  }
  return {};
}

namespace {

// Nothing where there is no such run, or where its data or checkpoints are not what they were.
std::optional<RunOutcome> gone_on_with(const RunConfig& config, const RunSetting& setting) {
  const auto run = interrupted_run(config, setting);
  if (!run) return {};
  const auto note = [&](const auto&... parts) {
    if (setting.progress) setting.progress->note(text(parts...));
  };
  try {
    note("run ", run->id, " goes on where it was interrupted");
    return resume_run(*run, config, false, setting);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::refused && e.kind() != ErrorKind::data) throw;
    note(e.what(), "; a new run begins");
    return {};
  }
}

}  // namespace

io::Path finished_or_trained(RunConfig config, int64_t seed, const std::string& name, const std::string& recipe_path,
                             const RunSetting& setting, Reuse reuse) {
  config.seed = seed;
  if (!config.train.init_from.empty()) config.train.init_weights = find_starting_point(config, setting, reuse).weights;
  if (const auto done = finished_run(config, setting, reuse)) return *done;
  auto resumed = gone_on_with(config, setting);
  const auto outcome = resumed ? std::move(*resumed) : start_run(config, name, recipe_path, setting, reuse);
  if (outcome.result.reason == train::StopReason::interrupted)
    throw Error(ErrorKind::interrupted,
                text(outcome.run.id, ": interrupted at step ", outcome.result.step, ", checkpoint written"),
                "the same command goes on from there; runs that are finished are used again");
  if (outcome.result.reason == train::StopReason::not_finite)
    fail(ErrorKind::data, outcome.run.id, ": ", outcome.result.problem);
  return outcome.folder;
}

}  // namespace collegium
