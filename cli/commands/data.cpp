// `collegium data ACTION`: the data sets that are known by name, where they are, and fetching them.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "collegium/base/bytes.h"
#include "collegium/base/error.h"
#include "collegium/data/sources.h"

namespace collegium::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDataActions[] = {"list", "get", "info", "path"};
constexpr Positional kDataArguments[] = {
    {.name = "ACTION", .help = "what to do", .choices = kDataActions},
    {.name = "NAME",
     .help = "data sets; all of them when left out of list, info and path",
     .min = 0,
     .max = kUnlimited,
     .complete = Complete::datasets},
};
constexpr Option kDataOptions[] = {
    {.name = "names", .help = "with list: only the names, one a line"},
    {.name = "offline", .help = "with get: look in the cache and the folders only", .environment = "COLLEGIUM_OFFLINE"},
};
constexpr Example kDataExamples[] = {
    {"collegium data list", "which data sets there are, and which are here"},
    {"collegium data get shakespeare", "fetch one into the cache, its hash checked"},
    {"collegium data info shakespeare", "licence, source, hash and size"},
    {"collegium data path shakespeare", "the archive's file, for a script"},
};

// The archive as it lies on this machine, its hash not yet checked.
fs::path data_archive(const data::Source& source, const data::SourcePaths& paths) {
  auto folders = paths.folders;
  folders.insert(folders.begin(), paths.cache);
  std::error_code problem;
  for (const auto& folder : folders)
    if (fs::is_regular_file(folder / source.archive, problem)) return folder / source.archive;
  return {};
}

int64_t data_size(const fs::path& file) {
  std::error_code problem;
  const auto size = fs::file_size(file, problem);
  return problem ? 0 : static_cast<int64_t>(size);
}

std::string data_registry(const data::Source& source) {
  return source.kind == data::PackageKind::made ? "none" : source.kind == data::PackageKind::npm ? "npm" : "PyPI";
}

const data::Source& known_source(const std::string& name) {
  if (const auto* source = data::find_source(name)) return *source;
  std::vector<std::string> known;
  for (const auto& source : data::sources()) known.emplace_back(source.name);
  const auto near = nearest(name, known);
  throw Error(ErrorKind::usage, text("no data set is called '", name, "' (known: ", join(known), ")"),
              near.empty() ? "'collegium data list' shows all of them" : text("did you mean '", near, "'?"));
}

std::vector<const data::Source*> chosen_sources(const Arguments& arguments) {
  std::vector<const data::Source*> out;
  for (const auto& name : arguments.positionals("NAME")) out.push_back(&known_source(name));
  if (out.empty())
    for (const auto& source : data::sources()) out.push_back(&source);
  return out;
}

Json data_json(const data::Source& source, const fs::path& file) {
  Json out = {{"name", source.name},
              {"title", source.title},
              {"licence", source.licence},
              {"registry", data_registry(source)},
              {"package", source.package},
              {"version", source.version},
              {"archive", source.archive},
              {"sha256", source.sha256},
              {std::string(source.contents()), source.n_documents}};
  out["file"] = file.empty() ? Json() : Json(file.string());
  if (!file.empty()) out["bytes"] = data_size(file);
  return out;
}

int list_data(const Arguments& arguments, const data::SourcePaths& paths) {
  auto& out = arguments.out();
  auto list = Json::array();
  TextTable table({"name", "contents", "size", "licence", "found"});
  for (const auto* source : chosen_sources(arguments)) {
    const auto file = data_archive(*source, paths);
    table.row({std::string(source->name), text(source->n_documents, " ", source->contents()),
               file.empty() ? "" : bytes_text(data_size(file)), std::string(source->licence),
               file.empty() ? "not here" : file.parent_path().string()});
    if (arguments.flag("names")) out.line(source->name);
    list.push_back(arguments.flag("names") ? Json(source->name) : data_json(*source, file));
  }
  if (!arguments.flag("names")) out.block(table.render(out.table_style()));
  out.json(list);
  return 0;
}

int get_data(const Arguments& arguments, data::SourcePaths paths) {
  require(!arguments.positionals("NAME").empty(), "data get: NAME is missing: which data sets to get");
  auto& out = arguments.out();
  paths.offline = arguments.flag("offline");
  auto list = Json::array();
  // All names are checked before the first download.
  for (const auto* source : chosen_sources(arguments)) {
    const auto file = data::locate(*source, paths, [&](const data::DataProgress& step) {
      if (step.done == 0) out.note(text("fetching ", source->archive, " (", data::origin_of(*source), ")"));
    });
    out.line(text(source->name, ": ", file.string(), " (", bytes_text(data_size(file)), ", hash checked)"));
    list.push_back(data_json(*source, file));
  }
  out.json(list);
  return 0;
}

int info_data(const Arguments& arguments, data::SourcePaths paths) {
  auto& out = arguments.out();
  auto list = Json::array();
  paths.offline = true;
  bool first = true;
  for (const auto* source : chosen_sources(arguments)) {
    const auto file = data_archive(*source, paths);
    // Throws when the file is another one than it should be: that is what a reader of `info` wants to know.
    if (!file.empty()) data::locate(*source, paths);
    if (!std::exchange(first, false)) out.line();
    out.line(out.colored("1", source->name));
    out.line(text("  title      ", source->title));
    out.line(text("  licence    ", source->licence));
    out.line(text("  source     ", data::origin_of(*source)));
    out.line(text("  archive    ", source->archive));
    out.line(text("  SHA-256    ", source->sha256));
    out.line(text("  contents   ", source->n_documents, " ", source->contents()));
    out.line(file.empty() ? text("  found      not here; 'collegium data get ", source->name, "' fetches it")
                          : text("  found      ", file.string(), " (", bytes_text(data_size(file)), ", hash checked)"));
    list.push_back(data_json(*source, file));
  }
  out.json(list);
  return 0;
}

int path_data(const Arguments& arguments, data::SourcePaths paths) {
  auto& out = arguments.out();
  paths.offline = true;
  if (arguments.positionals("NAME").empty()) {
    auto folders = Json::array();
    for (const auto& folder : paths.folders) folders.push_back(folder.string());
    out.line(paths.cache.string());
    for (const auto& folder : paths.folders) out.line(folder.string());
    out.json({{"cache", paths.cache.string()}, {"folders", folders}});
    return 0;
  }
  auto files = Json::object();
  for (const auto* source : chosen_sources(arguments)) {
    const auto file = data::locate(*source, paths).string();
    out.line(file);
    files[std::string(source->name)] = file;
  }
  out.json(files);
  return 0;
}

int run_data(const Arguments& arguments) {
  const auto environment = arguments.streams().environment;
  auto paths = data::source_paths(environment("XDG_CACHE_HOME"), environment("HOME"), environment("COLLEGIUM_DATA"));
  const auto action = arguments.positional("ACTION");
  if (action == "list") return list_data(arguments, paths);
  if (action == "get") return get_data(arguments, std::move(paths));
  if (action == "info") return info_data(arguments, std::move(paths));
  return path_data(arguments, std::move(paths));
}

}  // namespace

extern constinit const Command data_command = {
    .name = "data",
    .summary = "list, fetch and locate data sets",
    .help =
        "Data sets are packages of public registries, pinned by version and SHA-256. They are looked for in the "
        "cache (XDG_CACHE_HOME or ~/.cache) and in the folders that COLLEGIUM_DATA names, parted by colons; "
        "only 'get' downloads, with pip or npm, and keeps nothing whose hash is wrong.\n\n"
        "list shows them all; get fetches; info tells licence, source and hash; path prints the archive's file, "
        "or without a name the cache and the folders.",
    .group = "data",
    .positionals = kDataArguments,
    .options = kDataOptions,
    .examples = kDataExamples,
    .run = run_data,
};

}  // namespace collegium::cli
