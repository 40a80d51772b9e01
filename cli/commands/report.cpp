// `collegium report`: the page of one run.
#include <nlohmann/json.hpp>

#include "cli/setting.h"

namespace collegium::cli {
namespace {

constexpr Positional kReportArguments[] = {
    {.name = "RUN", .help = "a run's id, the start of one, or its folder", .complete = Complete::runs}};
constexpr Option kReportOptions[] = {
    {.name = "prompt", .value = "TEXT", .help = "sample this prompt instead of the recipe's"},
    {.name = "no-sample", .help = "keep the sample that is there; needs no model"},
    kRunsOption,
    kDeviceOption,
    kThreadsOption,
};
constexpr Example kReportExamples[] = {{"collegium report tiny_moe", "write runs/tiny_moe-…/report.html again"}};

int run_report(const Arguments& arguments) {
  auto& out = arguments.out();
  apply_threads(arguments);
  const auto folder = run_folder(arguments, arguments.positional("RUN"));
  const bool has_checkpoint = !io::list_checkpoints(io::real_file_system(), folder / "checkpoints").empty();
  if (!has_checkpoint) out.note("no checkpoint yet: the page has no sample");
  if (has_checkpoint && !arguments.flag("no-sample")) {
    const auto device = parse_device(arguments.text("device"));
    auto run = open_run(folder, device);
    show_warnings(arguments, run.warnings);
    if (arguments.given("prompt")) {
      run.language_model("report --prompt");  // refuses a run that reads no text
      run.config.sample.prompt = arguments.text("prompt");
    }
    write_sample(run, device);
  }
  const auto path = write_report(folder);
  out.line(path.string());
  out.json({{"report", path.string()}});
  return 0;
}

}  // namespace

extern constinit const Command report_command = {
    .name = "report",
    .summary = "write the page of a run: one HTML file, opens offline",
    .help =
        "Loss curves, speed, expert load over time, a map of which expert each token of a sample went to, the "
        "configuration and the environment. Works on unfinished runs too.",
    .group = "train and use",
    .positionals = kReportArguments,
    .options = kReportOptions,
    .examples = kReportExamples,
    .run = run_report,
};

}  // namespace collegium::cli
