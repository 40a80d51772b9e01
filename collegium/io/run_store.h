// The list of runs: one SQLite file at <runs root>/runs.sqlite, one row a run. Any number of processes may write
// it at a time; each waits for the others up to ten seconds.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/io/sqlite.h"

namespace collegium::io {

enum class RunStatus { running, finished, interrupted, failed, nan };

std::string_view run_status_name(RunStatus status);

/// One run. Times are ISO 8601 text in UTC, "2026-01-31T12:00:00Z", given by the caller; they sort as text.
struct Run {
  std::string id;  ///< unique, not empty
  std::string name;
  std::string recipe_path;
  std::string command = "train";
  std::string folder;  ///< as the caller wrote it; an absolute path is found from everywhere
  RunStatus status = RunStatus::running;
  int64_t seed = 0;
  std::string git_commit, config_hash;
  std::string created_at;
  std::string finished_at;  ///< empty while it runs
  int64_t steps = 0;
  std::optional<double> train_bpb, valid_bpb;  ///< bits per byte; nullopt when not measured (or not a number)
  std::optional<double> tokens_per_second;
  std::string note;
  bool operator==(const Run&) const = default;
};

/// A commit as tables show it: nine digits, and "-dirty" where it has that.
std::string short_commit(std::string_view commit);

/// Failures are Errors as Database throws them. One thread at a time.
class RunStore {
 public:
  /// Opens the list, or creates it and its folder. Throws an Error of kind data when the file belongs to a newer
  /// Collegium or to another program.
  explicit RunStore(const Path& runs_root);

  /// Adds the run, or replaces all fields of the one with its id. Throws a usage Error when the id is empty.
  void upsert(const Run& run);
  /// All runs, newest first (by created_at, then by the order in which they were added); at most `limit`.
  std::vector<Run> list(int64_t limit = -1);
  /// The run with exactly this id.
  std::optional<Run> get(std::string_view id);
  /// The run that a person means: an id, a folder, or the start of exactly one id. Throws a usage Error that lists
  /// the candidates when there are several (of one folder: the newest is taken), and the nearest id or name when
  /// there is none.
  Run find(std::string_view word);

 private:
  void prepare_schema();

  Database database_;
};

}  // namespace collegium::io
