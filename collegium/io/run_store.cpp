#include "collegium/io/run_store.h"

#include <algorithm>
#include <array>

namespace collegium::io {
namespace {

constexpr int64_t kSchemaVersion = 1;

constexpr std::array<std::string_view, 5> kStatusNames = {"running", "finished", "interrupted", "failed", "nan"};

constexpr std::string_view kRunColumns =
    "id, name, recipe_path, command, folder, status, seed, git_commit, config_hash, created_at, finished_at, steps, "
    "train_bpb, valid_bpb, tokens_per_second, note";

Path prepared_file(const Path& runs_root) {
  real_file_system().create_directories(runs_root);
  return runs_root / "runs.sqlite";
}

RunStatus status_from(const std::string& name, const Path& path) {
  const auto found = std::find(kStatusNames.begin(), kStatusNames.end(), name);
  if (found == kStatusNames.end()) fail(ErrorKind::data, path.string(), ": unknown status '", name, "' of a run");
  return static_cast<RunStatus>(found - kStatusNames.begin());
}

/// The row that the statement stands on; columns as in kRunColumns.
Run run_from(const Statement& row, const Path& path) {
  Run run = {.id = row.string(0),
             .name = row.string(1),
             .recipe_path = row.string(2),
             .command = row.string(3),
             .folder = row.string(4),
             .status = status_from(row.string(5), path),
             .seed = row.integer(6),
             .git_commit = row.string(7),
             .config_hash = row.string(8),
             .created_at = row.string(9),
             .finished_at = row.string(10),
             .steps = row.integer(11),
             .train_bpb = row.number(12),
             .valid_bpb = row.number(13),
             .tokens_per_second = row.number(14),
             .note = row.string(15)};
  // Runs live beside the list of them, and may be moved or copied together.
  std::error_code ignored;
  if (const auto here = std::filesystem::absolute(path).parent_path() / run.id; std::filesystem::exists(here, ignored))
    run.folder = here.lexically_normal().string();
  return run;
}

bool is_same_folder(std::string_view a, std::string_view b) {
  if (a.empty() || b.empty()) return false;
  if (a == b) return true;
  std::error_code first, second;
  const auto full_a = std::filesystem::weakly_canonical(std::filesystem::absolute(a, first), first);
  const auto full_b = std::filesystem::weakly_canonical(std::filesystem::absolute(b, second), second);
  const auto plain = [](const Path& path) { return path.has_filename() ? path : path.parent_path(); };
  return !first && !second && plain(full_a) == plain(full_b);
}

}  // namespace

std::string_view run_status_name(RunStatus status) {
  return kStatusNames.at(static_cast<size_t>(status));
}

std::string short_commit(std::string_view commit) {
  const auto digits = commit.find('-');
  return text(commit.substr(0, std::min<size_t>(9, digits)),
              digits == std::string_view::npos ? "" : commit.substr(digits));
}

RunStore::RunStore(const Path& runs_root) : database_(prepared_file(runs_root)) {
  prepare_schema();
}

void RunStore::prepare_schema() {
  const auto is_current = [&] {
    const auto version = database_.integer("PRAGMA user_version");
    if (version > kSchemaVersion)
      throw Error(
          ErrorKind::data,
          text(database_.path().string(), ": has schema ", version, "; this Collegium knows schema ", kSchemaVersion),
          "update Collegium, or choose another folder for runs");
    return version == kSchemaVersion;
  };
  if (is_current()) return;
  Transaction transaction(database_);
  if (is_current()) return;  // another process was faster
  if (database_.integer("SELECT count(*) FROM sqlite_schema") != 0)
    throw Error(ErrorKind::data, database_.path().string() + ": is a database of another program",
                "choose another folder for runs");
  database_.execute(
      "CREATE TABLE runs("
      " id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, recipe_path TEXT NOT NULL, command TEXT NOT NULL,"
      " folder TEXT NOT NULL, status TEXT NOT NULL, seed INTEGER NOT NULL, git_commit TEXT NOT NULL,"
      " config_hash TEXT NOT NULL, created_at TEXT NOT NULL, finished_at TEXT NOT NULL, steps INTEGER NOT NULL,"
      " train_bpb REAL, valid_bpb REAL, tokens_per_second REAL, note TEXT NOT NULL);"
      "PRAGMA user_version = 1;");
  transaction.commit();
}

void RunStore::upsert(const Run& run) {
  require(!run.id.empty(), "a run needs an id");
  Statement statement(database_,
                      text("INSERT INTO runs(", kRunColumns,
                           ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) "
                           "ON CONFLICT(id) DO UPDATE SET name = ?2, recipe_path = ?3, command = ?4, folder = ?5, "
                           "status = ?6, seed = ?7, git_commit = ?8, config_hash = ?9, created_at = ?10, "
                           "finished_at = ?11, steps = ?12, train_bpb = ?13, valid_bpb = ?14, "
                           "tokens_per_second = ?15, note = ?16"));
  statement.bind(1, run.id)
      .bind(2, run.name)
      .bind(3, run.recipe_path)
      .bind(4, run.command)
      .bind(5, run.folder)
      .bind(6, run_status_name(run.status))
      .bind(7, run.seed)
      .bind(8, run.git_commit)
      .bind(9, run.config_hash)
      .bind(10, run.created_at)
      .bind(11, run.finished_at)
      .bind(12, run.steps)
      .bind(13, run.train_bpb)
      .bind(14, run.valid_bpb)
      .bind(15, run.tokens_per_second)
      .bind(16, run.note);
  statement.run();
}

std::vector<Run> RunStore::list(int64_t limit) {
  Statement rows(database_, text("SELECT ", kRunColumns, " FROM runs ORDER BY created_at DESC, rowid DESC LIMIT ?1"));
  rows.bind(1, limit);
  std::vector<Run> out;
  while (rows.step()) out.push_back(run_from(rows, database_.path()));
  return out;
}

std::optional<Run> RunStore::get(std::string_view id) {
  Statement rows(database_, text("SELECT ", kRunColumns, " FROM runs WHERE id = ?1"));
  rows.bind(1, id);
  if (!rows.step()) return {};
  return run_from(rows, database_.path());
}

Run RunStore::find(std::string_view word) {
  require(!word.empty(), "which run? give an id, the start of one, or a folder");
  if (auto exact = get(word)) return *exact;
  const auto all = list();
  for (const auto& run : all)
    if (is_same_folder(run.folder, word)) return run;

  const auto matching = [&](auto&& fits) {
    std::vector<const Run*> out;
    for (const auto& run : all)
      if (fits(run)) out.push_back(&run);
    return out;
  };
  // A whole name wins over longer ones that begin alike.
  auto matches = matching([&](const Run& run) { return run.name == word; });
  if (matches.empty()) matches = matching([&](const Run& run) { return std::string_view(run.id).starts_with(word); });
  if (matches.size() == 1) return *matches.front();

  if (matches.empty()) {
    std::vector<std::string> known;
    for (const auto& run : all) known.insert(known.end(), {run.id, run.name});
    const auto near = nearest(word, known);
    throw Error(ErrorKind::usage, text("no run '", word, "'", near.empty() ? "" : text("; did you mean '", near, "'?")),
                "'collegium runs' lists them");
  }
  std::vector<std::string> lines;
  for (const auto* run : matches) lines.push_back(text(run->id, "  ", run->created_at, "  ", run->name));
  throw Error(ErrorKind::usage,
              text("'", word, "' is the start of ", matches.size(), " runs:\n  ", join(lines, "\n  ")),
              "give more letters of the id");
}

}  // namespace collegium::io
