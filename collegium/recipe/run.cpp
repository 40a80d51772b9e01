#include "collegium/recipe/run.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>

#include "collegium/inspect/page.h"
#include "collegium/io/json.h"
#include "collegium/io/sha256.h"
#include "collegium/recipe/machine.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/starting_point.h"
#include "collegium/recipe/toml.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

constexpr int kRunFormat = 1;

Table without_seed(Table config) {
  std::erase_if(config.items, [](const Item& item) { return item.key == "seed"; });
  return config;
}

// What runs of one configuration share over their seeds: those that start from a recipe start from that recipe's run of
// their seed, so its weights follow from the seed.
Table shared_over_seeds(Table config) {
  const auto* from = find_path(config, "train.init_from");
  if (from && std::get<std::string>(from->data).ends_with(".toml")) set_path(config, "train.init_weights", "");
  return without_seed(std::move(config));
}

std::string short_hash(const Table& config) {
  const auto toml = to_toml(config);
  return io::sha256_hex(io::as_bytes(toml)).substr(0, 16);
}

void write_json(const io::Path& path, const nlohmann::json& value) {
  io::write_atomically(io::real_file_system(), path, io::as_bytes(io::dump_json(value, 1) + "\n"));
}

nlohmann::json read_json(const io::Path& path) {
  return io::parse_json(io::read_text(io::real_file_system(), path), path.string());
}

// "weights of ID after step N: 40 tensors taken; new: ..."
std::vector<std::string> start_lines(const StartingPoint& from, const WeightMatch& match) {
  auto lines = match.lines();
  lines.insert(lines.begin(), text("starts from the weights of step ", from.step, " of ",
                                   (from.run.empty() ? from.checkpoint : from.run.filename()).string()));
  return lines;
}

// `from`: where a run that begins (again) starts; nullptr for new weights.
RunOutcome carry_out(io::Run run, const io::Path& folder, const RunConfig& config, const Workload& data,
                     bool is_resumed, const RunSetting& setting, const StartingPoint* from) {
  auto& fs = io::real_file_system();
  io::RunStore store(setting.runs_root);
  const auto model = data.build_model(setting.device);
  std::vector<std::string> start;
  if (from) {
    require_same_words(*from, data);
    const auto match = take_weights(parameters_of(*model), *from, config.train);
    start = start_lines(*from, match);
    auto record = match.json();
    record["from"] = config.train.init_from, record["run"] = from->run.filename().string(), record["step"] = from->step;
    record["weights"] = from->weights;
    write_json(folder / "init.json", record);
    if (setting.progress)
      for (const auto& line : start) setting.progress->note(line);
  }
  const auto notes = model->facts(config.train.context).notes;
  if (setting.progress)
    for (const auto& note : notes) setting.progress->note(text("warning: ", note));
  const auto task = data.learn(*model, setting.device);
  train::Trainer trainer(config.train, *task);

  io::JsonLines metrics(fs, folder / "metrics.jsonl"), timing(fs, folder / "timing.jsonl");
  RunOutcome out{
      .run = std::move(run), .folder = folder, .result = {}, .warnings = data.notes(), .start = std::move(start)};
  if (is_resumed) {
    if (io::list_checkpoints(fs, folder / "checkpoints").empty()) {
      metrics.truncate_to(0), timing.truncate_to(0);  // killed before its first checkpoint: begin again
    } else {
      auto loaded = io::load_checkpoint(fs, folder / "checkpoints");
      out.warnings.insert(out.warnings.end(), loaded.warnings.begin(), loaded.warnings.end());
      const auto key = loaded.data.meta.value("data_key", "");
      if (key != data.key())
        throw Error(ErrorKind::refused,
                    text("resume ", out.run.id, ": the data is not what the run was trained on (", data.key(),
                         " instead of ", key, ")"),
                    "restore the data, or start a new run");
      trainer.restore(loaded.data, &metrics);
      io::remove_checkpoints_after(fs, folder / "checkpoints", loaded.data.step);
    }
    // Only now: a checkpoint that does not fit a changed configuration leaves the run as it was.
    io::write_atomically(fs, folder / "config.toml", io::as_bytes(to_toml(resolved(config))));
  }
  out.run.status = io::RunStatus::running, out.run.finished_at.clear();
  store.upsert(out.run);

  train::TrainSinks sinks{
      .fs = &fs,
      .checkpoints = folder / "checkpoints",
      .metrics = &metrics,
      .timing = &timing,
      .progress = setting.progress,
      .title = text("training ", out.run.name, ", seed ", config.seed),
      .is_interrupted = setting.is_interrupted,
      .clock = setting.clock,
      .meta = {{"format", kRunFormat}, {"data_key", data.key()}, {"config", to_toml(resolved(config))}}};
  const auto close = [&](io::RunStatus status) {
    const auto& r = out.result;
    out.run.status = status, out.run.finished_at = setting.now(), out.run.steps = r.step;
    const auto score = [](const std::map<std::string, double>& scores, const std::string& key) {
      const auto found = scores.find(key);
      return found == scores.end() ? std::nullopt : std::optional(found->second);
    };
    const std::string key(r.headline.key);
    if (key == "bpb")
      out.run.train_bpb = score(r.train, key), out.run.valid_bpb = score(r.valid, key);
    else if (const auto valid = score(r.valid, key))
      out.run.note = text(*valid, " ", r.headline.unit);
    if (r.tokens_per_second > 0) out.run.tokens_per_second = r.tokens_per_second;
    store.upsert(out.run);
  };
  try {
    // From here on the run needs its source no more.
    if (from) trainer.save(sinks);
    out.result = trainer.run(sinks);
    if (out.result.reason == train::StopReason::finished) {
      if (const auto answers = data.answers(*model, setting.device); !answers.is_null())
        write_json(folder / "translation.json", answers);
      if (const auto probes = data.probes(*model, setting.device); !probes.is_null())
        write_json(folder / "probes.json", probes);
    }
  } catch (...) {
    out.result.step = trainer.step();
    close(io::RunStatus::failed);
    throw;
  }
  switch (out.result.reason) {
    case train::StopReason::finished:
      close(io::RunStatus::finished);
      break;
    case train::StopReason::interrupted:
      close(io::RunStatus::interrupted);
      break;
    case train::StopReason::not_finite:
      close(io::RunStatus::nan);
      break;
  }
  return out;
}

io::Run stored_run(const io::Path& folder) {
  return io::RunStore(io::parent_of(std::filesystem::absolute(folder))).find(folder.filename().string());
}

Table read_config_table(const io::Path& folder) {
  if (!io::real_file_system().exists(folder / "config.toml"))
    throw Error(ErrorKind::usage, text(folder.string(), ": not a run folder (no config.toml)"), "see `collegium runs`");
  return read_toml(folder / "config.toml");
}

}  // namespace

namespace {

nlohmann::json read_if_there(const io::Path& path) {
  return io::real_file_system().exists(path) ? read_json(path) : nlohmann::json::object();
}

}  // namespace

nlohmann::json read_translation(const io::Path& folder) {
  return read_if_there(folder / "translation.json");
}

nlohmann::json read_probes(const io::Path& folder) {
  return read_if_there(folder / "probes.json");
}

std::vector<nlohmann::json> rows_of(const io::Path& path) {
  auto& fs = io::real_file_system();
  return fs.exists(path) ? io::read_json_lines(fs, path).rows : std::vector<nlohmann::json>{};
}

nlohmann::json run_facts(const io::Path& folder) {
  const auto config = read_run_config(read_config_table(folder));
  const auto run = stored_run(folder);
  const auto data = read_json(folder / "data.json");
  const auto task = task_of(config);
  const auto length = task->sequence_length(config);
  const auto facts = task->stored_model(config, data, at::kMeta)->facts(length);
  nlohmann::json out = {
      {"id", run.id},
      {"name", run.name},
      {"status", io::run_status_name(run.status)},
      {"recipe", run.recipe_path},
      {"started", run.created_at},
      {"finished", run.finished_at},
      {"seed", run.seed},
      {"commit", run.git_commit},
      {"steps", run.steps},
      {"tokens", run.steps * config.train.batch_size * config.train.accumulation * length},
      {"parameters_total", facts.parameters_total},
      {"parameters_active", facts.parameters_active},
      {"flops_per_token", 3 * facts.flops_per_token},
      {"cache_bytes_per_token", facts.cache_bytes_per_token},
      {"precision", train::enum_names(config.train.precision)[static_cast<size_t>(config.train.precision)]}};
  if (run.tokens_per_second) out["tokens_per_second"] = *run.tokens_per_second;
  if (run.train_bpb) out["train_bpb"] = *run.train_bpb;
  if (run.valid_bpb) out["valid_bpb"] = *run.valid_bpb;
  const auto rows = rows_of(folder / "metrics.jsonl");
  const auto last = std::find_if(rows.rbegin(), rows.rend(), [](const auto& r) { return r["kind"] == "valid"; });
  if (last != rows.rend() && last->contains("accuracy")) out["valid_accuracy"] = last->at("accuracy");
  std::vector<std::string> names;
  for (const auto layer : facts.moe_layers) names.push_back(model::layer_name(facts, layer));
  return {{"run", out}, {"layer_names", names}, {"n_experts", facts.n_experts}};
}

RunOutcome start_run(const RunConfig& asked, const std::string& name, const std::string& recipe_path,
                     const RunSetting& setting, Reuse sources) {
  auto& fs = io::real_file_system();
  auto config = asked;
  // What would fail later fails before there is a folder.
  const auto data = task_of(config)->prepare(config, setting);
  const auto shapes = data->build_model(at::kMeta);
  std::optional<StartingPoint> from;
  if (!config.train.init_from.empty()) {
    plan_start(config, setting);
    from = find_starting_point(config, setting, sources);
    config.train.init_weights = from->weights;
    require_same_words(*from, *data);
  }
  const auto table = resolved(config);

  io::Run run{.name = name,
              .recipe_path = recipe_path,
              .seed = config.seed,
              .git_commit = setting.git_commit,
              .config_hash = short_hash(without_seed(table)),
              .created_at = setting.now()};
  // 2026-01-31T12:00:00Z -> 20260131-120000; a number is added until the folder is new.
  auto stamp = run.created_at;
  std::erase_if(stamp, [](char c) { return c == '-' || c == ':' || c == 'Z'; });
  std::replace(stamp.begin(), stamp.end(), 'T', '-');
  const auto stem = text(name, "-s", config.seed, "-", stamp);
  run.id = stem;
  for (int i = 2; fs.exists(setting.runs_root / run.id); ++i) run.id = text(stem, "-", i);
  const auto folder = std::filesystem::absolute(setting.runs_root / run.id).lexically_normal();
  run.folder = folder.string();

  fs.create_directories(folder);
  io::write_atomically(fs, folder / "config.toml", io::as_bytes(to_toml(table)));
  auto env = environment_on(setting.device);
  if (!setting.code.empty()) env["code"] = setting.code;
  write_json(folder / "env.json", env);
  write_json(folder / "data.json", data->record());
  data->save(folder);
  if (setting.progress) setting.progress->note(text("run ", run.id));
  return carry_out(std::move(run), folder, config, *data, false, setting, from ? &*from : nullptr);
}

RunOutcome resume_run(const io::Run& run, const RunConfig& asked, bool allow_drift, const RunSetting& setting) {
  const io::Path folder = run.folder;
  const auto stored = read_config_table(folder);
  auto config = asked;
  // The weights that it started from are the run's own; a recipe need not say them.
  if (const auto* weights = find_path(stored, "train.init_weights");
      weights && config.train.init_weights.empty() && !config.train.init_from.empty())
    config.train.init_weights = std::get<std::string>(weights->data);
  const auto drift = differences(stored, resolved(config));
  if (!drift.empty() && !allow_drift)
    throw Error(ErrorKind::refused,
                text("resume ", run.id, ": the configuration changed:\n    ", join(drift, "\n    ")),
                "undo the change, start a new run, or accept it with --allow-drift");
  const auto data = task_of(config)->prepare(config, setting);
  std::optional<StartingPoint> from;
  if (!config.train.init_from.empty() && io::list_checkpoints(io::real_file_system(), folder / "checkpoints").empty())
    from = find_starting_point(config, setting, Reuse::any_code);
  return carry_out(run, folder, config, *data, true, setting, from ? &*from : nullptr);
}

io::Run find_unfinished(io::RunStore& store, const std::string& recipe_path) {
  const auto full = [](const std::string& path) { return std::filesystem::weakly_canonical(path); };
  std::vector<std::string> unfinished;
  for (const auto& run : store.list()) {
    if (run.status == io::RunStatus::finished) continue;
    if (run.recipe_path == recipe_path || full(run.recipe_path) == full(recipe_path)) return run;
    unfinished.push_back(run.id);
  }
  throw Error(ErrorKind::usage, text("resume: no unfinished run of ", recipe_path),
              unfinished.empty() ? "`collegium runs` lists all runs"
                                 : text("--run ID picks one of another recipe: ", join(unfinished)));
}

OpenedRun open_run(const io::Path& folder, at::Device device, std::optional<int64_t> step) {
  auto& fs = io::real_file_system();
  // Read before `out` begins: when a later initialiser throws, g++ 12 destroys the members of `.config = {}` twice.
  auto table = read_config_table(folder);
  OpenedRun out{.folder = folder, .config = {}, .config_table = std::move(table), .tokenizer = {}, .model = {}};
  out.config = read_run_config(out.config_table);
  if (has_text(out.config)) out.tokenizer = data::Tokenizer::load(folder / "tokenizer.json");
  auto loaded = step ? io::load_checkpoint_step(fs, folder / "checkpoints", *step)
                     : io::load_checkpoint(fs, folder / "checkpoints");
  out.model = task_of(out.config)->stored_model(out.config, read_json(folder / "data.json"), device);
  train::load_tensors(parameters_of(*out.model), loaded.data.weights, loaded.folder.string());
  out.step = loaded.data.step, out.warnings = std::move(loaded.warnings);
  return out;
}

model::LanguageModel& OpenedRun::language_model(std::string_view what) const {
  if (!has_text(config))
    throw Error(ErrorKind::usage,
                text(what, ": the run ", folder.filename().string(), " has the task '", config.task.name,
                     "': its model reads no text"),
                "`collegium inspect` shows its routing, `collegium report` its training");
  return dynamic_cast<model::LanguageModel&>(*model);
}

void write_sample(OpenedRun& run, at::Device device) {
  const auto& sample = run.config.sample;
  if (!run.tokenizer || sample.prompt.empty()) return;
  auto& model = run.language_model("a sample");
  const auto ids = run.tokenizer->encode(sample.prompt);
  std::vector<int64_t> tokens(ids.begin(), ids.end());
  const auto made = infer::generate(model, tokens, sample, run.tokenizer->end_id(), run.config.train.context, device);
  const auto n_prompt = tokens.size();
  tokens.insert(tokens.end(), made.begin(), made.end());
  if (tokens.size() > static_cast<size_t>(run.config.train.context))
    tokens.resize(static_cast<size_t>(run.config.train.context));
  const auto trace = infer::trace_tokens(model, tokens, device);

  nlohmann::json out = {{"prompt", sample.prompt},
                        {"n_prompt", n_prompt},
                        {"step", run.step},
                        {"tokens", nlohmann::json::array()},
                        {"routing", nlohmann::json::array()}};
  for (const auto token : tokens) {
    const auto id = static_cast<int32_t>(token);
    out["tokens"].push_back(run.tokenizer->decode(std::span(&id, 1)));
  }
  for (const auto& record : trace.records) {
    std::vector<nlohmann::json> layer(tokens.size(), nlohmann::json::array());
    const auto& d = record.decision;
    const auto gate = d.gate_R().to(at::kCPU, at::kDouble), score = d.score_R().to(at::kCPU, at::kDouble);
    const auto margin = d.margin_R().to(at::kCPU, at::kDouble), rank = d.rank_R().cpu();
    for (int64_t r = 0; r < d.n_kept(); ++r) {
      nlohmann::json choice = {{"expert", d.expert_R()[r].item<int64_t>()},
                               {"gate", gate[r].item<double>()},
                               {"score", score[r].item<double>()},
                               {"rank", rank[r].item<int64_t>()}};
      const auto m = margin[r].item<double>();
      if (std::isfinite(m)) choice["margin"] = m;
      layer[static_cast<size_t>(d.token_R()[r].item<int64_t>())].push_back(std::move(choice));
    }
    for (auto& choices : layer)
      std::sort(choices.begin(), choices.end(), [](const auto& a, const auto& b) { return a["gate"] > b["gate"]; });
    out["routing"].push_back(layer);
  }
  write_json(run.folder / "sample.json", out);
}

nlohmann::json report_data(const io::Path& folder) {
  const auto config_table = read_config_table(folder);
  auto out = run_facts(folder);
  out["metrics"] = rows_of(folder / "metrics.jsonl");
  // Only rows with a speed are points of the timing chart.
  out["timing"] = nlohmann::json::array();
  for (auto& row : rows_of(folder / "timing.jsonl"))
    if (row.contains("tokens_per_second")) out["timing"].push_back(std::move(row));
  out["config_toml"] = to_toml(config_table);
  out["environment"] = read_json(folder / "env.json");
  out["data"] = read_json(folder / "data.json");
  out["notes"] = out["data"].value("notes", nlohmann::json::array());
  if (const auto init = read_if_there(folder / "init.json"); !init.empty()) {
    const auto run = init.at("run").get<std::string>();
    out["notes"].push_back(text("started from the weights of step ", init.at("step").get<int64_t>(), " of ",
                                run.empty() ? init.at("from").get<std::string>() : run, ": ", init.at("taken").size(),
                                " tensors taken, ", init.at("rows").size(), " in part, ", init.at("new").size(),
                                " new, ", init.at("left_over").size(), " left over"));
  }
  if (io::real_file_system().exists(folder / "sample.json")) out["sample"] = read_json(folder / "sample.json");
  return out;
}

io::Path write_report(const io::Path& folder) {
  const auto path = folder / "report.html";
  io::write_atomically(io::real_file_system(), path, io::as_bytes(report_page(report_data(folder))));
  return path;
}

nlohmann::json compare_data(const std::vector<io::Path>& folders, const std::vector<std::string>& names) {
  struct Group {
    std::string hash;
    Table config;
    std::vector<io::Path> folders;
  };
  std::vector<Group> groups;
  std::set<std::string> known;
  std::vector<std::string> left_out;
  for (const auto& folder : folders) {
    const auto config = read_config_table(folder);
    // The same seed again is no further sample: its spread would be a zero that says nothing.
    if (!known.insert(to_toml(config)).second) {
      left_out.push_back(folder.filename().string());
      continue;
    }
    const auto shared = shared_over_seeds(config);
    const auto hash = short_hash(shared);
    auto found = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.hash == hash; });
    if (found == groups.end()) found = groups.insert(groups.end(), {hash, shared, {}});
    found->folders.push_back(folder);
  }
  require(names.empty() || names.size() == groups.size(), "compare: ", names.size(), " names for ", groups.size(),
          " groups of runs with equal configuration");

  nlohmann::json out = {{"title", "Comparison"},
                        {"left_out", left_out},
                        {"groups", nlohmann::json::array()},
                        {"differences", nlohmann::json::array()},
                        {"table", nlohmann::json::array()}};
  std::vector<std::string> paths;
  for (size_t g = 1; g < groups.size(); ++g)
    for (const auto& line : differences(groups[0].config, groups[g].config)) {
      const auto path = line.substr(0, line.find(": "));
      if (path != "seed" && std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
    }
  for (const auto& path : paths) {
    nlohmann::json values = nlohmann::json::array();
    for (const auto& g : groups) {
      const auto* value = find_path(g.config, path);
      values.push_back(value ? to_toml(*value) : "");
    }
    out["differences"].push_back({{"path", path}, {"values", values}});
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    nlohmann::json runs = nlohmann::json::array();
    std::string label = names.empty() ? "" : names[g];
    for (const auto& folder : groups[g].folders) {
      auto data = report_data(folder);
      if (label.empty()) label = data["run"]["name"];
      runs.push_back({{"id", data["run"]["id"]},
                      {"seed", data["run"]["seed"]},
                      {"name", data["run"]["name"]},
                      {"run", data["run"]},
                      {"metrics", data["metrics"]},
                      {"timing", data["timing"]}});
    }
    for (const auto& other : out["groups"])
      if (other["name"] == label) label += text(" (", g + 1, ")");
    out["groups"].push_back({{"name", label}, {"runs", runs}});
  }
  std::vector<std::vector<MeasuredRun>> measured;
  for (const auto& g : groups) measured.emplace_back(g.folders.begin(), g.folders.end());
  for (const auto& line : measures()) {
    if (!line.in_comparisons) continue;
    nlohmann::json values = nlohmann::json::array();
    bool any = false;
    for (const auto& runs : measured) {
      const auto spread = spread_of(runs, line.name);
      any = any || spread;
      values.push_back(spread ? spread->json() : nlohmann::json());  // a dense run has no experts: an empty cell
    }
    if (any)
      out["table"].push_back({{"measure", line.title},
                              {"unit", line.unit},
                              {"better", line.better},
                              {"fixed", line.is_fixed},
                              {"values", values}});
  }
  return out;
}

}  // namespace collegium
