// `collegium compare`: several runs on one page.
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/setting.h"
#include "collegium/inspect/page.h"

namespace collegium::cli {
namespace {

constexpr Positional kCompareArguments[] = {
    {.name = "RUN", .help = "runs to compare; those that differ only in their seed form a group", .min = 1,
     .max = kUnlimited, .complete = Complete::runs}};
constexpr Option kCompareOptions[] = {
    {.name = "out", .letter = 'o', .value = "FILE", .help = "the page", .default_text = "compare.html",
     .complete = Complete::files},
    {.name = "label", .value = "NAME", .help = "name of a group, in the order of the runs", .repeatable = true},
    {.name = "title", .value = "TEXT", .help = "title of the page", .default_text = "Comparison"},
    kRunsOption,
};
constexpr Example kCompareExamples[] = {
    {"collegium compare tiny_moe-s1 tiny_moe-s2 dense-s1 dense-s2 --label moe --label dense", "two groups, two seeds"}};

std::string cell_text(const nlohmann::json& value) {
  if (value.is_null()) return "-";
  std::ostringstream out;
  out << std::setprecision(5) << value["mean"].get<double>();
  if (value["n"].get<int>() > 1) out << " ± " << std::setprecision(2) << value["std"].get<double>();
  return out.str();
}

int run_compare(const Arguments& arguments) {
  auto& out = arguments.out();
  std::vector<io::Path> folders;
  for (const auto& word : arguments.positionals("RUN")) folders.push_back(run_folder(arguments, word));
  auto data = compare_data(folders, arguments.all("label"));
  data["title"] = arguments.text("title");
  io::write_atomically(io::real_file_system(), arguments.text("out"), io::as_bytes(compare_page(data)));

  std::vector<std::string> header = {"measure"};
  for (const auto& g : data["groups"]) header.push_back(text(g["name"].get<std::string>(), " (", g["runs"].size(), ")"));
  TextTable rows(header);
  for (size_t column = 1; column < header.size(); ++column) rows.align(column, Align::right);
  for (const auto& line : data["table"]) {
    const auto unit = line["unit"].get<std::string>();
    std::vector<std::string> cells = {line["measure"].get<std::string>() + (unit.empty() ? "" : ", " + unit)};
    for (const auto& value : line["values"]) cells.push_back(cell_text(value));
    rows.row(cells);
  }
  out.block(rows.render(out.table_style()));
  out.line(text("page: ", arguments.text("out")));
  out.json({{"page", arguments.text("out")}, {"table", Json::parse(data["table"].dump())},
            {"differences", Json::parse(data["differences"].dump())}});
  return 0;
}

}  // namespace

extern constinit const Command compare_command = {
    .name = "compare",
    .summary = "compare runs on one page, same axes, with seeds and spread",
    .help = "Runs with equal configuration, seeds aside, form a group: a thin line a seed, a thick one for the mean.",
    .group = "train and use",
    .positionals = kCompareArguments,
    .options = kCompareOptions,
    .examples = kCompareExamples,
    .run = run_compare,
};

}  // namespace collegium::cli
