// Files through one narrow interface, so that tests can fail any call, cut the power and look at what is left.
//
// Nothing here is durable until it is synced: `write` and `append` fill a file, `sync_file` makes its bytes
// durable, and `sync_directory` makes the names in a folder durable (files created, renamed or removed there).
// Every failure is an Error of kind io that names the path and says what the system said.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/error.h"

namespace collegium::io {

using Path = std::filesystem::path;
using Bytes = std::span<const std::byte>;

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  /// Creates the file, or replaces what it holds, with `parts` one after another. After an Error the file may
  /// hold a part of them.
  virtual void write(const Path& path, std::span<const Bytes> parts) = 0;
  /// Adds `bytes` at the end; creates the file when it is not there. After an Error a part may have been added.
  virtual void append(const Path& path, Bytes bytes) = 0;
  /// Cuts the file, or fills it with zeros, to `size` bytes.
  virtual void truncate(const Path& path, uint64_t size) = 0;
  virtual void sync_file(const Path& path) = 0;
  virtual void sync_directory(const Path& path) = 0;
  /// Moves a file or folder within one disk; replaces a file or an empty folder at `to`.
  virtual void rename(const Path& from, const Path& to) = 0;
  /// Removes one file; an Error when it is not there.
  virtual void remove(const Path& path) = 0;
  /// Removes a file, or a folder with all below it; nothing to remove is no Error.
  virtual void remove_all(const Path& path) = 0;
  /// Creates the folder and those above it; no Error when they are there.
  virtual void create_directories(const Path& path) = 0;
  virtual bool exists(const Path& path) = 0;
  /// Names in the folder, sorted.
  virtual std::vector<std::string> list(const Path& path) = 0;
  /// Bytes in the file.
  virtual uint64_t size(const Path& path) = 0;
  /// Fills all of `out` from byte `offset` on; an Error when the file ends before.
  virtual void read(const Path& path, uint64_t offset, std::span<std::byte> out) = 0;
};

/// The computer's files (POSIX). Has no state, so any number of threads may use it.
FileSystem& real_file_system();

/// An Error of kind io: "cannot write /a/b: No space left on device", with a hint where there is one to give.
Error io_error(std::string_view what, const Path& path, int errno_value);

inline Bytes as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

void write_bytes(FileSystem& fs, const Path& path, Bytes bytes);
std::vector<std::byte> read_bytes(FileSystem& fs, const Path& path);
std::string read_text(FileSystem& fs, const Path& path);

/// The folder that holds `path`; "." for a bare name.
Path parent_of(const Path& path);

/// Replaces the file in one step that a crash or power loss cannot split: afterwards it holds the old bytes or
/// the new ones. Writes `path`.tmp, syncs it, renames it, syncs the folder. One writer at a time.
void write_atomically(FileSystem& fs, const Path& path, Bytes bytes);

/// Creates the folder and those above it, and makes their names durable.
void create_durable_directories(FileSystem& fs, const Path& path);

}  // namespace collegium::io
