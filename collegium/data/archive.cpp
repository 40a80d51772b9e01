#include "collegium/data/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <memory>

#include "collegium/base/error.h"

namespace collegium::data {
namespace {

[[noreturn]] void fail_archive(const std::filesystem::path& path, std::string_view problem) {
  throw Error(ErrorKind::data, text(path.string(), ": not a readable .tar.gz archive: ", problem),
              "fetch the file again; it may be cut short");
}

std::string read_member(archive* from, const std::filesystem::path& path, std::string_view name, int64_t largest) {
  std::string bytes, block(1 << 16, '\0');
  while (true) {
    const auto n = archive_read_data(from, block.data(), block.size());
    if (n < 0) fail_archive(path, archive_error_string(from));
    if (n == 0) return bytes;
    bytes.append(block, 0, static_cast<size_t>(n));
    if (static_cast<int64_t>(bytes.size()) > largest)
      fail(ErrorKind::data, path.string(), ": '", name, "' is larger than ", largest, " bytes");
  }
}

}  // namespace

std::vector<ArchiveMember> read_archive(const std::filesystem::path& path,
                                        const std::function<bool(std::string_view)>& wanted, int64_t largest) {
  if (!std::filesystem::is_regular_file(path)) fail(ErrorKind::io, path.string(), ": no such file");
  const std::unique_ptr<archive, int (*)(archive*)> from(archive_read_new(), &archive_read_free);
  archive_read_support_filter_gzip(from.get());
  archive_read_support_format_tar(from.get());
  if (archive_read_open_filename(from.get(), path.c_str(), 1 << 16) != ARCHIVE_OK)
    fail_archive(path, archive_error_string(from.get()));

  std::vector<ArchiveMember> members;
  while (true) {
    archive_entry* entry = nullptr;
    const int code = archive_read_next_header(from.get(), &entry);
    if (code == ARCHIVE_EOF) break;
    if (code != ARCHIVE_OK && code != ARCHIVE_WARN) fail_archive(path, archive_error_string(from.get()));
    const char* name = archive_entry_pathname(entry);
    if (!name || archive_entry_filetype(entry) != AE_IFREG || !wanted(name)) continue;
    const std::string kept = name;  // the entry is reused by the next header
    members.push_back({kept, read_member(from.get(), path, kept, largest)});
  }
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return members;
}

}  // namespace collegium::data
