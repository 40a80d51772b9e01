#include "collegium/recipe/recipe.h"

#include <algorithm>
#include <array>
#include <set>

#include "collegium/io/sha256.h"
#include "collegium/recipe/catalogues.h"
#include "collegium/recipe/measures.h"
#include "collegium/recipe/toml.h"
#include "collegium/recipe/workload.h"

namespace collegium {
namespace {

// The recipe's own keys; the rest of the file is the run's configuration.
struct RecipeHead {
  int64_t paper = 0;
  std::string title, claim, baseline_name = "baseline";
  Tier tier = Tier::slow;
  std::vector<int64_t> seeds;
  Table baseline, leaderboard;
  void visit(Fields& field) {
    field("paper", paper, {.help = "row of the catalogue of papers; 0 = none", .min = 0, .max = 119});
    field("title", title, {.help = "what this is, for people"});
    field("claim", claim, {.help = "what the run should show"});
    field("tier", tier, {.help = "fast: seconds; slow: minutes; gpu: needs one"});
    field("seeds", seeds, {.help = "seeds of the evidence, each once; left out = the run's seed"});
    field("baseline_name", baseline_name, {.help = "what the comparison is called"});
    field("baseline", baseline, {.help = "keys of the same run that the comparison changes"});
    field("leaderboard", leaderboard,
          {.help =
               "there: on the task of `compare --room route` rather than its own, with these keys below model.moe (or "
               "train.consistency) changed; or absent = \"why it cannot take part\""});
  }
};

struct RecipeFile : RecipeHead {
  RunConfig run;
  void visit(Fields& field) {
    RecipeHead::visit(field);
    run.visit(field);
  }
};

// Of a bound that is left out, 0 would be a guess; and only a margin has something to be a share of.
void check_bound(const Table& from, const Expectation& e, const std::string& path) {
  if (is_comparison(e)) return;
  if (e.relative)
    throw config_error(from.find("relative")->origin, path + ".relative",
                       "goes with below_baseline and above_baseline");
  if (from.find("value")) return;
  const auto name = enum_names(e.relation)[static_cast<size_t>(e.relation)];
  throw config_error(from.find("relation")->origin, path + ".value", text("is missing: '", name, "' needs a bound"));
}

Expectation read_expectation(const Table& from, const Origin& origin, const std::string& path) {
  auto out = read_config<Expectation>(from, path);
  out.where = origin.describe().empty() ? path : text(origin.describe(), ": ", path);
  try {
    find_measure(out.measure);
  } catch (const Error& e) {
    const auto* named = from.find("measure");
    throw config_error(named ? named->origin : origin, path + ".measure", e.what());
  }
  check_bound(from, out, path);
  return out;
}

std::vector<Expectation> take_expectations(Table& root) {
  std::vector<Expectation> out;
  const auto* found = root.find("expect");
  if (!found) return out;
  const auto* list = std::get_if<List>(&found->data);
  if (!list) throw config_error(found->origin, "expect", "must be a list of tables: [[expect]]");
  for (const auto& element : *list) {
    const auto* t = std::get_if<Table>(&element.data);
    if (!t) throw config_error(element.origin, "expect", "must be a list of tables: [[expect]]");
    out.push_back(read_expectation(*t, element.origin, text("expect[", out.size(), "]")));
  }
  std::erase_if(root.items, [](const Item& item) { return item.key == "expect"; });
  return out;
}

// The file that `base` names; errors say who asks for it.
Table read_base(const Value& base, const std::filesystem::path& below) {
  try {
    return read_toml(below.lexically_normal());
  } catch (const Error& e) {
    throw Error(e.kind(), text(base.origin.describe(), ": base: ", e.what()), e.hint());
  }
}

Table take_base(Table root, const std::filesystem::path& path) {
  const auto* base = root.find("base");
  if (!base) return root;
  const auto* name = std::get_if<std::string>(&base->data);
  if (!name) throw config_error(base->origin, "base", "must be a string: the path of a .toml file");
  const auto below = path.has_parent_path() ? path.parent_path() / *name : std::filesystem::path(*name);
  auto lower = read_base(*base, below);
  if (const auto* again = lower.find("base"))
    throw config_error(again->origin, "base",
                       "a base has no base of its own (one level, so that a reader finds every value)");
  std::erase_if(root.items, [](const Item& item) { return item.key == "base"; });
  return merged(std::move(lower), root);
}

// Takes `path` out of `root`; tables that are then empty stay.
void erase_path(Table& root, std::string_view path) {
  const auto dot = path.find('.');
  const auto key = path.substr(0, dot);
  if (dot == std::string_view::npos) {
    std::erase_if(root.items, [&](const Item& item) { return item.key == key; });
  } else if (auto* below = root.find(key)) {
    erase_path(std::get<Table>(below->data), path.substr(dot + 1));
  }
}

// What a task does not read must not be set: it would look as if it did something.
void refuse_unread(const RunConfig& run) {
  const auto given = write_config(run), untouched = write_config(RunConfig{});
  for (const auto path : unread_parts(run)) {
    const auto *ours = find_path(given, path), *theirs = find_path(untouched, path);
    ensure(ours && theirs, path, " is no part of a run");
    if (!(*ours == *theirs))
      throw config_error(ours->origin, path, text("the task '", run.task.name, "' does not read it"));
  }
}

// A recipe that init_from names stands where the file that says so would find it, as a base does.
void anchor_source(Table& root) {
  auto* section = root.find("train");
  auto* train = section ? std::get_if<Table>(&section->data) : nullptr;
  auto* value = train ? train->find("init_from") : nullptr;
  auto* from = value ? std::get_if<std::string>(&value->data) : nullptr;
  if (!from || !from->ends_with(".toml") || !value->origin.file) return;
  *from = (std::filesystem::path(*value->origin.file).parent_path() / *from).lexically_normal().string();
}

void check_start(const TrainSection& train) {
  const auto needs_source = [&](bool is_set, std::string_view key) {
    require(!is_set || !train.init_from.empty(), "train.", key, ": says what to do with the weights of ",
            "train.init_from, which names none");
  };
  needs_source(!train.init_weights.empty(), "init_weights");
  needs_source(!train.init_rows.empty(), "init_rows");
  needs_source(!train.init_fresh.empty(), "init_fresh");
}

// What a recipe's sides start from, where that is a recipe, with what those start from in turn.
std::string written_sources(const Recipe& recipe, int depth = 0) {
  constexpr int kDeepest = 16;  // a circle is refused where it is followed; here it must only end
  std::string out;
  for (const auto* run : {&recipe.run, recipe.has_baseline ? &recipe.baseline : nullptr}) {
    if (!run || !run->train.init_from.ends_with(".toml") || depth == kDeepest) continue;
    const auto source = read_recipe(run->train.init_from);
    out += text("source\n", source.written, written_sources(source, depth + 1));
  }
  return out;
}

// `path` stands before keys in errors.
RunConfig checked(RunConfig run, std::string_view path = "") {
  resolve_fields(write_config(run), list_config<RunConfig>(),
                 path);  // throws where a component's name or field is wrong
  check_start(run.train);
  refuse_unread(run);
  return run;
}

// Takes [leaderboard] out of `root`: its keys must fit the recipe's own run, and may not change the task. A run that
// --set changed is not the one they were written for.
void take_leaderboard(Table& root, Recipe& out, bool is_as_written) {
  const auto* found = root.find("leaderboard");
  if (!found) return;
  const auto* given = std::get_if<Table>(&found->data);
  if (!given) throw config_error(found->origin, "leaderboard", "must be a table");
  const auto origin = found->origin;
  auto keys = *given;
  std::erase_if(root.items, [](const Item& item) { return item.key == "leaderboard"; });
  if (const auto* why = keys.find("absent")) {
    const auto* words = std::get_if<std::string>(&why->data);
    if (!words || words->empty() || keys.items.size() != 1)
      throw config_error(why->origin, "leaderboard.absent", "must be the reason in words, and stand alone");
    out.leaderboard_absence = *words;
    return;
  }
  if (!is_as_written) return;
  const auto other = checked(read_config<RecipeFile>(merged(root, keys), "leaderboard").run, "leaderboard");
  for (const auto& line : differences(resolved(read_config<RecipeFile>(root).run), resolved(other)))
    if (!line.starts_with("model.moe.") && !line.starts_with("train.consistency"))
      throw config_error(origin, "leaderboard",
                         text("changes ", line,
                              "; only keys below model.moe and train.consistency may "
                              "differ from the table's own task"));
  out.leaderboard = std::move(keys);
}

// Keys of the file itself. `base` and [[expect]] are taken out before the rest is read, and still are known.
void check_keys(const Table& root) {
  std::vector<std::string> known = {"base", "expect"};
  for (const auto& field : recipe_fields()) known.push_back(field.name);
  for (const auto& [key, value] : root.items) {
    if (std::ranges::find(known, key) != known.end()) continue;
    const auto near = nearest(key, known);
    throw config_error(value.origin, key,
                       text("unknown key", near.empty() ? "" : text("; did you mean '", near, "'?"),
                            " (known here: ", join(known), ")"));
  }
}

// A seed that counts twice, or none at all, would make a verdict of less than it says.
void check_seeds(const Table& root) {
  const auto* found = root.find("seeds");
  const auto* list = found ? std::get_if<List>(&found->data) : nullptr;
  if (!list) return;  // left out, or of a type that reading refuses
  const auto refuse = [&](std::string_view problem) { throw config_error(found->origin, "seeds", problem); };
  if (list->empty()) refuse("names no seed; leave the key out for the run's own");
  std::set<int64_t> seen;
  for (const auto& element : *list) {
    const auto* seed = std::get_if<int64_t>(&element.data);
    if (!seed) return;
    if (*seed < 0) refuse(text("must be at least 0, got ", *seed));
    if (!seen.insert(*seed).second) refuse(text("names ", *seed, " twice, which would count one run as two"));
  }
}

// The comparison's run: the same with the keys below [baseline] laid over it.
RunConfig read_baseline(const Table& root, const Table& keys, const RunConfig& run) {
  auto other = merged(root, keys);
  std::erase_if(other.items, [](const Item& item) { return item.key == "baseline"; });
  auto out = checked(read_config<RecipeFile>(other, "baseline").run, "baseline");
  if (differences(resolved(run), resolved(out)).empty())
    throw config_error(root.find("baseline")->origin, "baseline", "changes nothing: both sides would be the same run");
  return out;
}

}  // namespace

bool is_comparison(const Expectation& e) {
  return e.relation == Relation::below_baseline || e.relation == Relation::above_baseline;
}

std::span<const std::string_view> enum_names(Tier) {
  static constexpr std::array<std::string_view, 3> names = {"fast", "slow", "gpu"};
  return names;
}

std::span<const std::string_view> enum_names(Relation) {
  static constexpr std::array<std::string_view, 5> names = {"equals", "at_most", "at_least", "below_baseline",
                                                            "above_baseline"};
  return names;
}

void RunConfig::visit(Fields& field) {
  field("seed", seed, {.help = "everything random follows from it", .min = 0});
  field("task", task, {.help = "what is learned from what", .catalogue = "tasks"});
  field("data", data, {.help = "which text, how it becomes tokens (task language)"});
  field("model", model, {.help = "what is trained", .catalogue = "models"});
  field("train", train, {.help = "how it is trained"});
  field("sample", sample, {.help = "the sample in the report (task language)"});
}

std::string measure_names() {
  std::vector<std::string> names;
  for (const auto& m : measures()) names.emplace_back(m.name);
  return join(names);
}

void Expectation::visit(Fields& field) {
  field("measure", measure,
        {.help = text("what is compared: ", measure_names(), ", or aux:TERM for an auxiliary term of training")});
  field("relation", relation, {.help = "how it must stand"});
  field("value", value, {.help = "the bound, or the margin over the baseline"});
  field("relative", relative,
        {.help = "the margin is a share of the baseline's value, as what depends on the machine wants it"});
  field("tolerance", tolerance, {.help = "for equals: how far it may be off", .min = 0});
  field("paper_says", paper_says, {.help = "the paper's own figure, printed beside ours and never checked"});
}

Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& sets) {
  auto root = take_base(read_toml(path), path);
  anchor_source(root);
  if (auto* baseline = root.find("baseline"))
    if (auto* keys = std::get_if<Table>(&baseline->data)) anchor_source(*keys);
  for (const auto& assignment : sets) apply_set(root, assignment);
  check_keys(root), check_seeds(root);
  Recipe out;
  out.name = path.stem().string(), out.path = path.string();
  out.expectations = take_expectations(root);
  take_leaderboard(root, out, sets.empty());
  auto file = read_config<RecipeFile>(root);
  auto runs = root;
  constexpr std::string_view words[] = {"paper", "title", "claim", "tier", "seeds", "baseline_name"};
  std::erase_if(runs.items, [&](const Item& item) { return std::ranges::find(words, item.key) != std::end(words); });
  out.written = to_toml(runs);
  out.paper = file.paper, out.title = file.title, out.claim = file.claim, out.tier = file.tier;
  out.seeds = file.seeds.empty() ? std::vector<int64_t>{file.run.seed} : file.seeds;
  out.run = checked(file.run);
  out.baseline_name = file.baseline_name;
  if (root.find("baseline")) try {
      out.baseline = read_baseline(root, file.baseline, out.run);
      out.has_baseline = true;
    } catch (const Error& e) {
      if (sets.empty()) throw;
      out.baseline_problem = e;
    }
  return out;
}

Table resolved(const RunConfig& run) {
  auto out = resolve_fields(write_config(run), list_config<RunConfig>(), "");
  for (const auto path : unread_parts(run)) erase_path(out, path);
  // The task that every recipe had before there were others goes without saying.
  if (run.task == RunConfig{}.task) erase_path(out, "task");
  // And so do new weights.
  if (run.train.init_from.empty())
    for (const auto* path : {"train.init_from", "train.init_weights", "train.init_rows", "train.init_fresh"})
      erase_path(out, path);
  return out;
}

RunConfig read_run_config(const Table& from) {
  return read_config<RunConfig>(from);
}

std::vector<FieldInfo> recipe_fields() {
  return list_config<RecipeFile>();
}

std::string recipe_hash(const Recipe& recipe) {
  auto all = recipe.written;
  for (const auto seed : recipe.seeds) all += text("seed ", seed, "\n");
  for (const auto& e : recipe.expectations) {
    auto fields = write_config(e);
    if (!e.relative) erase_path(fields, "relative");  // so results from before there was this field stay valid
    all += to_toml(fields);
  }
  all += written_sources(recipe);
  return io::sha256_hex(std::string_view(all)).substr(0, 16);
}

}  // namespace collegium
