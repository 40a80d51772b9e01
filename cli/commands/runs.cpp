// `collegium runs`: the list of runs.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/setting.h"
#include "collegium/base/text_table.h"

namespace collegium::cli {
namespace {

constexpr Option kRunsOptions[] = {
    {.name = "ids", .help = "only the ids, one a line"},
    {.name = "limit", .value = "N", .kind = ValueKind::integer, .help = "only the newest N", .default_text = "50"},
    kRunsOption,
};
constexpr Example kRunsExamples[] = {{"collegium runs", "the newest runs"}};

// 2026-01-31T12:00:00Z -> 2026-01-31 12:00, which may break into two lines.
std::string started(std::string created_at) {
  std::replace(created_at.begin(), created_at.end(), 'T', ' ');
  return created_at.substr(0, 16);
}

int run_runs(const Arguments& arguments) {
  auto& out = arguments.out();
  const auto limit = arguments.integer("limit");
  require(limit >= 1, "--limit must be at least 1, got ", limit);
  std::vector<io::Run> runs;
  // Looking creates nothing.
  if (io::real_file_system().exists(io::Path(arguments.text("runs")) / "runs.sqlite"))
    runs = io::RunStore(arguments.text("runs")).list(arguments.flag("ids") ? -1 : limit);
  auto json = Json::array();
  TextTable rows({"run", "status", "steps", "held-out", "tok/s", "started"});
  for (const auto& run : runs) {
    const auto number = [](const std::optional<double>& v, int digits) {
      return v ? fixed_text(*v, digits) : std::string("-");
    };
    if (arguments.flag("ids")) out.line(run.id);
    rows.row({run.id, std::string(io::run_status_name(run.status)), std::to_string(run.steps),
              run.valid_bpb || run.note.empty() ? number(run.valid_bpb, 4) + (run.valid_bpb ? " bpb" : "") : run.note,
              number(run.tokens_per_second, 0), started(run.created_at)});
    Json row = {{"id", run.id},
                {"status", io::run_status_name(run.status)},
                {"recipe", run.recipe_path},
                {"folder", run.folder},
                {"seed", run.seed},
                {"steps", run.steps},
                {"created_at", run.created_at},
                {"finished_at", run.finished_at},
                {"commit", run.git_commit}};
    if (!run.note.empty()) row["note"] = run.note;
    if (run.valid_bpb) row["valid_bpb"] = *run.valid_bpb;
    if (run.train_bpb) row["train_bpb"] = *run.train_bpb;
    if (run.tokens_per_second) row["tokens_per_second"] = *run.tokens_per_second;
    json.push_back(std::move(row));
  }
  if (!arguments.flag("ids")) {
    if (runs.empty())
      out.note(text("no runs in ", arguments.text("runs"), "; `collegium train RECIPE` makes one"));
    else
      out.block(rows.render(out.table_style()));
  }
  out.json(json);
  return 0;
}

}  // namespace

extern constinit const Command runs_command = {
    .name = "runs",
    .summary = "list the runs, newest first",
    .help = "A run that was killed keeps the status 'running' until it is resumed.",
    .group = "train and use",
    .options = kRunsOptions,
    .examples = kRunsExamples,
    .run = run_runs,
};

}  // namespace collegium::cli
