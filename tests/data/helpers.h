// What the tests of the data room share: a scratch folder, small archives, errors as text.
#pragma once
#include <archive.h>
#include <archive_entry.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "collegium/base/error.h"
#include "collegium/data/sources.h"

namespace collegium::data::test {

/// A folder that goes when the test ends.
class Scratch {
 public:
  Scratch() {
    auto name = (std::filesystem::temp_directory_path() / "collegium-data-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    const auto file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file;
  }

 private:
  std::filesystem::path path_;
};

/// "exit code: message [hint]", with `scratch` in place of the folder's changing name.
template <class Action>
std::string error_of(const Scratch& scratch, Action action) {
  try {
    action();
  } catch (const Error& e) {
    auto out = text(e.exit_code(), ": ", e.what(), e.hint().empty() ? "" : " [" + e.hint() + "]");
    const auto folder = scratch.path().string();
    for (auto at = out.find(folder); at != std::string::npos; at = out.find(folder))
      out.replace(at, folder.size(), "SCRATCH");
    return out;
  }
  return "no error";
}

template <class Action>
std::string error_of(Action action) {
  return error_of(Scratch(), action);
}

/// Writes a .tar.gz with these members.
inline void write_archive(const std::filesystem::path& path,
                          const std::vector<std::pair<std::string, std::string>>& members) {
  auto* out = archive_write_new();
  archive_write_add_filter_gzip(out);
  archive_write_set_format_pax_restricted(out);
  REQUIRE(archive_write_open_filename(out, path.c_str()) == ARCHIVE_OK);
  for (const auto& [name, bytes] : members) {
    auto* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(bytes.size()));
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    REQUIRE(archive_write_header(out, entry) == ARCHIVE_OK);
    archive_write_data(out, bytes.data(), bytes.size());
    archive_entry_free(entry);
  }
  archive_write_close(out);
  archive_write_free(out);
}

/// The paths of a user, without downloads.
inline SourcePaths offline_paths() {
  const auto value = [](const char* name) {
    const char* found = std::getenv(name);
    return std::string_view(found ? found : "");
  };
  auto paths = source_paths(value("XDG_CACHE_HOME"), value("HOME"), value("COLLEGIUM_DATA"));
  paths.offline = true;
  return paths;
}

/// Whether the real archive is on this machine.
inline bool has_source(std::string_view name) {
  try {
    locate(*find_source(name), offline_paths());
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// For doctest::skip: true, with a line that says why, when one of the archives is not on this machine.
inline bool is_missing(std::string_view test, std::initializer_list<std::string_view> names) {
  for (const auto name : names) {
    if (has_source(name)) continue;
    std::cerr << "skipped: " << test << " needs " << find_source(name)->archive << " in a folder of COLLEGIUM_DATA\n";
    return true;
  }
  return false;
}

}  // namespace collegium::data::test
