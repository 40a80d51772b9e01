#include "collegium/io/run_store.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <thread>

#include "tests/io/caught.h"
#include "tests/io/temp_folder.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;

namespace {

Run run_of(const std::string& id, const std::string& created_at = "2026-01-01T00:00:00Z") {
  Run run;
  run.id = id, run.created_at = created_at, run.folder = "runs/" + id, run.name = "tiny";
  return run;
}

void write_runs(const Path& root, int writer, int n_runs) {
  RunStore store(root);
  for (int i = 0; i < n_runs; ++i) {
    auto run = run_of(text("w", writer, "-", i));
    store.upsert(run);
    run.status = RunStatus::finished;
    store.upsert(run);
  }
}

int64_t count_finished(const Path& root) {
  int64_t out = 0;
  for (const auto& run : RunStore(root).list()) out += run.status == RunStatus::finished;
  return out;
}

}  // namespace

TEST_CASE("a run comes back with every field, also after it is changed") {
  TempFolder temp;
  Run run = run_of("20260131-120000-abcd");
  run.recipe_path = "recipes/a.toml", run.command = "train", run.seed = -5, run.git_commit = "0123",
  run.config_hash = "ff";
  run.steps = 7, run.valid_bpb = 1.0 / 3, run.note = "it's \"quoted\"; DROP TABLE runs; ü";
  RunStore store(temp / "deep/runs");
  store.upsert(run);
  CHECK(store.get(run.id) == run);
  run.status = RunStatus::nan, run.finished_at = "2026-01-31T13:00:00Z", run.steps = 900;
  run.train_bpb = 2.5, run.valid_bpb = std::nullopt, run.tokens_per_second = 1e6;
  store.upsert(run);
  CHECK(store.list() == std::vector{run});
  CHECK(RunStore(temp / "deep/runs").get(run.id) == run);
  CHECK_FALSE(store.get("other"));
  run.train_bpb = std::nan("");
  store.upsert(run);
  CHECK_FALSE(store.get(run.id)->train_bpb);
  CHECK(caught([&] { store.upsert({}); }).message == "a run needs an id");
  CHECK(run_status_name(RunStatus::interrupted) == "interrupted");
}

TEST_CASE("a commit is shown short, and that it had changes stays") {
  CHECK(short_commit("6198584aa5b0f1c2d3e4") == "6198584aa");
  CHECK(short_commit("6198584aa5b0f1c2d3e4-dirty") == "6198584aa-dirty");
  CHECK(short_commit("").empty());
}

TEST_CASE("runs are listed newest first") {
  TempFolder temp;
  RunStore store(temp.path());
  store.upsert(run_of("b", "2026-01-02T00:00:00Z"));
  store.upsert(run_of("c", "2026-01-01T00:00:00Z"));
  store.upsert(run_of("a", "2026-01-03T00:00:00Z"));
  store.upsert(run_of("d", "2026-01-03T00:00:00Z"));
  std::string order;
  for (const auto& run : store.list()) order += run.id;
  CHECK(order == "dabc");
  CHECK(store.list(2).size() == 2);
}

TEST_CASE("a run is found by id, start of an id, or folder") {
  TempFolder temp;
  RunStore store(temp.path());
  store.upsert(run_of("abc1", "2026-01-01T00:00:00Z"));
  store.upsert(run_of("abc2", "2026-01-02T00:00:00Z"));
  store.upsert(run_of("abc", "2026-01-03T00:00:00Z"));
  store.upsert(run_of("x%_y"));
  auto moved = run_of("zzz");
  moved.folder = (temp / "runs/zzz").string();
  store.upsert(moved);
  CHECK(store.find("abc").id == "abc");
  CHECK(store.find("abc2").id == "abc2");
  CHECK(store.find("x").id == "x%_y");
  CHECK(store.find("runs/abc1").id == "abc1");
  CHECK(store.find("./runs/../runs/abc1/").id == "abc1");
  CHECK(store.find((temp / "runs/zzz/").string()).id == "zzz");
  const auto several = caught([&] { store.find("ab"); });
  CHECK(several.kind == ErrorKind::usage);
  CHECK(several.message ==
        "'ab' is the start of 3 runs:\n  abc  2026-01-03T00:00:00Z  tiny\n  abc2  2026-01-02T00:00:00Z  tiny\n"
        "  abc1  2026-01-01T00:00:00Z  tiny");
  CHECK(caught([&] { store.find("%"); }).has("no run '%'"));
  CHECK(caught([&] { store.find("_"); }).has("no run '_'"));
  CHECK(caught([&] { store.find("acb2"); }).message == "no run 'acb2'; did you mean 'abc2'?");
  CHECK(caught([&] { store.find(""); }).kind == ErrorKind::usage);
}

TEST_CASE("a whole name wins over names that begin alike") {
  TempFolder temp;
  RunStore store(temp.path());
  for (const auto* name : {"switch", "switch_mixture"}) {
    auto run = run_of(text(name, "-s1"));
    run.name = name;
    store.upsert(run);
  }
  CHECK(store.find("switch").id == "switch-s1");
  CHECK(store.find("switch_").id == "switch_mixture-s1");
  CHECK(caught([&] { store.find("swi"); }).has("is the start of 2 runs"));
}

TEST_CASE("processes that open and write the same new list at once all succeed") {
  TempFolder temp;
  constexpr int n_writers = 4, n_runs = 25;
  std::vector<pid_t> children;
  for (int writer = 0; writer < n_writers; ++writer) {
    const auto child = ::fork();
    if (child == 0) {
      try {
        write_runs(temp.path(), writer, n_runs);
      } catch (const std::exception& e) {
        ::fprintf(stderr, "%s\n", e.what());
        ::_exit(1);
      }
      ::_exit(0);
    }
    REQUIRE(child > 0);
    children.push_back(child);
  }
  for (const auto child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  CHECK(count_finished(temp.path()) == n_writers * n_runs);
}

TEST_CASE("threads with a connection each all succeed") {
  TempFolder temp;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < 3; ++writer) threads.emplace_back([&, writer] { write_runs(temp.path(), writer, 20); });
  for (auto& thread : threads) thread.join();
  CHECK(count_finished(temp.path()) == 60);
}

TEST_CASE("files of a newer Collegium, of others and of no database at all are told apart") {
  TempFolder temp;
  const auto root = temp / "runs";
  {
    RunStore store(root);
  }
  {
    Database database(root / "runs.sqlite");
    CHECK(database.integer("PRAGMA user_version") == 1);
    database.execute("PRAGMA user_version = 7");
  }
  const auto newer = caught([&] { RunStore store(root); });
  CHECK(newer.kind == ErrorKind::data);
  CHECK(newer.message == (root / "runs.sqlite").string() + ": has schema 7; this Collegium knows schema 1");
  CHECK(newer.hint.starts_with("update Collegium"));

  real_file_system().create_directories(temp / "other");
  Database(temp / "other/runs.sqlite").execute("CREATE TABLE books(id)");
  CHECK(caught([&] { RunStore store(temp / "other"); }).has("is a database of another program"));

  real_file_system().create_directories(temp / "text");
  write_bytes(real_file_system(), temp / "text/runs.sqlite", as_bytes(std::string(5000, 'x')));
  const auto no_database = caught([&] { RunStore store(temp / "text"); });
  CHECK(no_database.kind == ErrorKind::data);
  CHECK(no_database.has("file is not a database"));

  write_bytes(real_file_system(), temp / "file", {});
  CHECK(caught([&] { RunStore store(temp / "file"); }).kind == ErrorKind::io);
  CHECK(caught([&] { Database database(temp / "none/x.sqlite"); }).has("unable to open database file"));
}

TEST_CASE("the wrapper reports busy files, wrong SQL and full values") {
  TempFolder temp;
  Database first(temp / "x.sqlite");
  first.execute("CREATE TABLE t(a, b)");
  {
    Statement mode(first, "PRAGMA journal_mode");
    REQUIRE(mode.step());
    CHECK(mode.string(0) == "wal");
  }

  Database second(temp / "x.sqlite", 20);
  {
    Transaction writing(first);
    Statement insert(first, "INSERT INTO t VALUES (?1, ?2)");
    insert.bind(1, int64_t{1}).bind(2, std::string_view()).run();
    const auto busy = caught([&] { second.execute("INSERT INTO t VALUES (2, 2)"); });
    CHECK(busy.kind == ErrorKind::io);
    CHECK(busy.has("database is locked"));
    CHECK(busy.hint.starts_with("another process holds the file"));
  }
  CHECK(second.integer("SELECT count(*) FROM t") == 0);  // not committed, so undone
  {
    Transaction writing(first);
    Statement insert(first, "INSERT INTO t VALUES (?1, ?2)");
    insert.bind(1, std::optional<double>(0.1)).bind(2, std::string_view("a\0b", 3)).run();
    writing.commit();
  }
  Statement rows(second, "SELECT a, b FROM t");
  REQUIRE(rows.step());
  CHECK(rows.number(0) == 0.1);
  CHECK(rows.string(1) == std::string("a\0b", 3));
  CHECK_FALSE(rows.step());
  CHECK(caught([&] { second.execute("SELEC"); }).has("syntax error"));
}
