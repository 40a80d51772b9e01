#include "collegium/recipe/starting_point.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <set>

#include "collegium/io/json.h"
#include "collegium/recipe/reuse.h"
#include "collegium/recipe/toml.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

constexpr std::string_view kWeights = "weights.safetensors", kManifest = "manifest.json";

nlohmann::json read_parsed(const io::Path& path) {
  return io::parse_json(io::read_text(io::real_file_system(), path), path.string());
}

// `*` stands for any text.
bool fits(std::string_view pattern, std::string_view name) {
  const auto star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  const auto rest = pattern.substr(star + 1);
  for (auto from = star; from <= name.size(); ++from)
    if (fits(rest, name.substr(from))) return true;
  return false;
}

bool any_fits(const std::vector<std::string>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const auto& p) { return fits(p, name); });
}

void require_use(const std::vector<std::string>& patterns, std::string_view key,
                 const std::vector<ParameterRef>& model) {
  std::vector<std::string> names;
  for (const auto& item : model) names.push_back(item.name);
  for (const auto& pattern : patterns) {
    if (std::any_of(names.begin(), names.end(), [&](const auto& n) { return fits(pattern, n); })) continue;
    // Of "*.router.weight" the end is compared with the ends of names.
    const auto n_parts = std::count(pattern.begin(), pattern.end(), '.');
    std::vector<std::string> known;
    for (const auto& name : names) {
      auto begin = name.size();
      for (int64_t i = 0; pattern.starts_with("*.") && i < n_parts && begin != std::string::npos; ++i)
        begin = begin == 0 ? std::string::npos : name.rfind('.', begin - 1);
      known.push_back(begin < name.size() ? "*" + name.substr(begin) : name);
    }
    const auto near = nearest(pattern, known);
    fail(ErrorKind::usage, "train.", key, ": no tensor of the model fits '", pattern, "'",
         near.empty() ? "" : text("; did you mean '", near, "'?"));
  }
}

bool may_take_rows(const std::vector<int64_t>& here, const std::vector<int64_t>& there) {
  return !here.empty() && here.size() == there.size() && std::equal(here.begin() + 1, here.end(), there.begin() + 1);
}

// Names of layers that differ in their number only become one: "layers.*.moe.router.scorer.weight (4)".
std::string folded(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, int>> groups;
  for (const auto& name : names) {
    std::string shown;
    for (size_t i = 0; i < name.size();) {
      const auto end = std::min(name.find('.', i), name.size());
      const auto part = name.substr(i, end - i);
      const bool is_number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
      shown += (shown.empty() ? "" : ".") + (is_number ? "*" : part);
      i = end + 1;
    }
    const auto known = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == shown; });
    if (known != groups.end())
      ++known->second;
    else
      groups.emplace_back(shown, 1);
  }
  std::vector<std::string> out;
  for (const auto& [shown, n] : groups) out.push_back(n > 1 ? text(shown, " (", n, ")") : shown);
  return join(out);
}

std::vector<NamedShape> shapes_of(const std::vector<ParameterRef>& items) {
  std::vector<NamedShape> out;
  for (const auto& item : items) out.push_back({item.name, item.tensor->sizes().vec()});
  return out;
}

std::vector<NamedShape> shapes_of(const io::SafetensorsFile& file) {
  std::vector<NamedShape> out;
  for (const auto& entry : file.entries()) out.push_back({entry.name, entry.shape});
  return out;
}

std::unique_ptr<model::Model> model_shapes(const RunConfig& config) {
  return task_of(config)->imagine(config)->build_model(at::kMeta);
}

StartingPoint good_checkpoint(const io::Path& run, const io::Path& folder) {
  auto& fs = io::real_file_system();
  const auto faults = io::verify_checkpoint(fs, folder);
  if (!faults.empty()) fail(ErrorKind::data, "train.init_from: ", join(faults, "; "));
  const auto manifest = read_parsed(folder / kManifest);
  return {.run = run,
          .checkpoint = folder,
          .step = manifest.at("step"),
          .weights = manifest.at("files").at(kWeights).at("sha256")};
}

StartingPoint newest_checkpoint(const io::Path& run, const io::Path& checkpoints) {
  auto& fs = io::real_file_system();
  std::vector<std::string> faults;
  for (const auto& checkpoint : io::list_checkpoints(fs, checkpoints)) {
    const auto wrong = io::verify_checkpoint(fs, checkpoint.folder);
    if (wrong.empty()) return good_checkpoint(run, checkpoint.folder);
    faults.insert(faults.end(), wrong.begin(), wrong.end());
  }
  fail(ErrorKind::data, "train.init_from: ", checkpoints.string(), " holds no checkpoint to start from",
       faults.empty() ? "" : text(": ", join(faults, "; ")));
}

// A run or a checkpoint that is there.
StartingPoint stored_point(const std::string& from, const RunSetting& setting) {
  auto& fs = io::real_file_system();
  auto path = io::Path(from).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    if (fs.exists(path / "config.toml")) return newest_checkpoint(path, path / "checkpoints");
    const auto run_of = [&](const io::Path& folder) { return fs.exists(folder / "config.toml") ? folder : io::Path(); };
    const auto whole = std::filesystem::absolute(path);
    if (fs.exists(path / kManifest)) return good_checkpoint(run_of(whole.parent_path().parent_path()), path);
    if (!io::list_checkpoints(fs, path).empty()) return newest_checkpoint(run_of(whole.parent_path()), path);
    throw Error(
        ErrorKind::usage,
        text("train.init_from: ", from, " is neither a run (no config.toml) nor a checkpoint (no manifest.json)"),
        "`collegium runs` lists runs; a checkpoint is a folder like runs/ID/checkpoints/step-00000400");
  }
  if (!fs.exists(setting.runs_root))
    throw Error(ErrorKind::usage,
                text("train.init_from: there is no folder ", from, ", and no runs below ", setting.runs_root.string()));
  try {
    const io::Path folder = io::RunStore(setting.runs_root).find(from).folder;
    return newest_checkpoint(folder, folder / "checkpoints");
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::usage) throw;
    throw Error(e.kind(), text("train.init_from: ", e.what()), e.hint());
  }
}

void refuse_circle(const RunConfig& config) {
  std::vector<std::string> path;
  auto run = config;
  while (starts_from_recipe(run.train)) {
    const auto next = std::filesystem::weakly_canonical(run.train.init_from).string();
    const bool is_met = std::find(path.begin(), path.end(), next) != path.end();
    path.push_back(next);
    require(!is_met, "train.init_from: recipes start from each other in a circle: ", join(path, " -> "));
    run = read_recipe(run.train.init_from).run;
  }
}

}  // namespace

nlohmann::json WeightMatch::json() const {
  nlohmann::json parts = nlohmann::json::array();
  for (const auto& r : rows)
    parts.push_back({{"name", r.name}, {"taken", r.taken}, {"here", r.here}, {"there", r.there}});
  return {{"taken", taken}, {"rows", parts}, {"new", fresh}, {"left_over", left_over}};
}

std::vector<std::string> WeightMatch::lines() const {
  std::vector<std::string> out = {text(taken.size(), taken.size() == 1 ? " tensor" : " tensors", " taken")};
  for (size_t i = 0; i < rows.size();) {
    std::vector<std::string> alike;
    const auto first = rows[i];
    for (; i < rows.size() && rows[i].here == first.here && rows[i].there == first.there; ++i)
      alike.push_back(rows[i].name);
    out.push_back(
        text("first ", first.taken, " rows taken (", first.there, " there, ", first.here, " here): ", folded(alike)));
  }
  if (!fresh.empty()) out.push_back(text("new: ", folded(fresh)));
  if (!left_over.empty()) out.push_back(text("left over: ", folded(left_over)));
  return out;
}

bool starts_from_recipe(const TrainSection& train) {
  return train.init_from.ends_with(".toml");
}

Recipe source_recipe(const RunConfig& config) {
  refuse_circle(config);
  auto out = read_recipe(config.train.init_from);
  out.run.seed = config.seed;
  return out;
}

StartingPoint find_starting_point(const RunConfig& config, const RunSetting& setting, Reuse reuse) {
  StartingPoint out;
  if (starts_from_recipe(config.train)) {
    const auto recipe = source_recipe(config);
    const auto run = finished_or_trained(recipe.run, config.seed, recipe.name, recipe.path, setting, reuse);
    out = newest_checkpoint(run, run / "checkpoints");
  } else {
    out = stored_point(config.train.init_from, setting);
  }
  const auto& wanted = config.train.init_weights;
  if (!wanted.empty() && wanted != out.weights)
    throw Error(ErrorKind::refused,
                text("train.init_from: ", config.train.init_from, " has other weights (", out.weights, ") than ",
                     "train.init_weights says (", wanted, ")"),
                "restore the source, or leave train.init_weights out");
  return out;
}

WeightMatch match_weights(const std::vector<ParameterRef>& model, const std::vector<NamedShape>& source,
                          const TrainSection& train, std::string_view name) {
  require_use(train.init_rows, "init_rows", model);
  require_use(train.init_fresh, "init_fresh", model);
  WeightMatch out;
  std::vector<std::string> others;
  std::set<std::string> used;
  for (const auto& item : model) {
    const auto found = std::find_if(source.begin(), source.end(), [&](const auto& s) { return s.name == item.name; });
    if (found == source.end() || any_fits(train.init_fresh, item.name)) {
      out.fresh.push_back(item.name);
      continue;
    }
    const auto here = item.tensor->sizes().vec();
    if (here == found->shape) {
      out.taken.push_back(item.name);
    } else if (any_fits(train.init_rows, item.name) && may_take_rows(here, found->shape)) {
      out.rows.push_back({item.name, std::min(here[0], found->shape[0]), here[0], found->shape[0]});
    } else {
      others.push_back(
          text("'", item.name, "' is ", at::IntArrayRef(found->shape), " there and ", at::IntArrayRef(here), " here"));
      continue;
    }
    used.insert(item.name);
  }
  if (!others.empty())
    throw Error(ErrorKind::usage,
                text("train.init_from: ", name, " has tensors of another shape: ", join(others, "; ")),
                "train.init_rows names those whose first rows are to be taken (shapes may differ in their first number "
                "only), train.init_fresh those that stay new");
  if (used.empty())
    fail(ErrorKind::usage, "train.init_from: ", name,
         " shares no tensor with this model (there: ", source.empty() ? "none" : source.front().name,
         ", here: ", model.empty() ? "none" : model.front().name, ")");
  for (const auto& s : source)
    if (!used.contains(s.name)) out.left_over.push_back(s.name);
  return out;
}

WeightMatch plan_start(const RunConfig& config, const RunSetting& setting) {
  const auto model = model_shapes(config);
  const auto items = parameters_of(*model);
  if (starts_from_recipe(config.train)) {
    const auto recipe = source_recipe(config);
    if (!recipe.run.train.init_from.empty()) plan_start(recipe.run, setting);  // refuses what would be refused later
    const auto other = model_shapes(recipe.run);
    return match_weights(items, shapes_of(parameters_of(*other)), config.train, recipe.path);
  }
  const auto from = stored_point(config.train.init_from, setting);
  return match_weights(items, shapes_of({io::real_file_system(), from.checkpoint / kWeights}), config.train,
                       from.checkpoint.string());
}

WeightMatch take_weights(const std::vector<ParameterRef>& model, const StartingPoint& from, const TrainSection& train) {
  const io::SafetensorsFile file(io::real_file_system(), from.checkpoint / kWeights);
  auto out = match_weights(model, shapes_of(file), train, from.checkpoint.string());
  const at::NoGradGuard no_grad;
  const auto tensor = [&](const std::string& name) -> Tensor& {
    return *std::find_if(model.begin(), model.end(), [&](const auto& item) { return item.name == name; })->tensor;
  };
  for (const auto& name : out.taken) tensor(name).copy_(file.read(name));
  for (const auto& r : out.rows) tensor(r.name).slice(0, 0, r.taken).copy_(file.read(r.name).slice(0, 0, r.taken));
  return out;
}

void require_same_words(const StartingPoint& from, const Workload& data) {
  const auto words = data.words();
  if (words.empty()) return;
  auto& fs = io::real_file_system();
  for (const auto& folder : {from.run, from.checkpoint}) {
    const auto path = folder / "tokenizer.json";
    if (folder.empty() || !fs.exists(path)) continue;
    if (data::Tokenizer::load(path).to_json() == words) return;
    throw Error(ErrorKind::refused,
                text("train.init_from: ", path.string(),
                     " is another tokenizer than this run's: its tokens mean other "
                     "text"),
                text("data.tokenizer = \"", path.string(), "\" takes that of the source"));
  }
  const auto meta = read_parsed(from.checkpoint / "meta.json");
  if (meta.value("data_key", "") == data.key()) return;
  throw Error(ErrorKind::refused,
              text("train.init_from: the tokenizer of ", from.checkpoint.string(),
                   " is not known, and it was trained on "
                   "other data"),
              "put its tokenizer.json beside its weights.safetensors");
}

}  // namespace collegium
