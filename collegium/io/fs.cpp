#include "collegium/io/fs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

namespace collegium::io {
namespace {

/// A file descriptor that closes itself. `close` reports what the destructor cannot.
class Descriptor {
 public:
  Descriptor(const Path& path, int flags, std::string_view what) : path_(path), what_(what) {
    do fd_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) throw io_error(what, path, errno);
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void write(Bytes bytes) const {
    while (!bytes.empty()) {
      const auto n = ::write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw io_error(what_, path_, errno);
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }

  void read(uint64_t offset, std::span<std::byte> out) const {
    while (!out.empty()) {
      const auto n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw io_error(what_, path_, errno);
      if (n == 0)
        fail(ErrorKind::io, "cannot read ", path_.string(), ": it ends at byte ", offset, ", ", out.size(), " short");
      out = out.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
  }

  void sync() const {
    int failed = 0;
    do failed = ::fsync(fd_);
    while (failed && errno == EINTR);
    // Some network file systems cannot sync a folder and say so; there is nothing better to do on them.
    if (failed && errno != EINVAL && errno != ENOTSUP) throw io_error(what_, path_, errno);
  }

  // Network file systems report a full disk only here. EINTR leaves the descriptor closed on Linux.
  void close() {
    const int failed = ::close(fd_);
    fd_ = -1;
    if (failed && errno != EINTR) throw io_error(what_, path_, errno);
  }

 private:
  const Path& path_;
  std::string_view what_;
  int fd_ = -1;
};

void check_offset(std::string_view what, const Path& path, uint64_t offset) {
  if (offset > static_cast<uint64_t>(std::numeric_limits<off_t>::max())) throw io_error(what, path, EFBIG);
}

class RealFileSystem final : public FileSystem {
 public:
  void write(const Path& path, std::span<const Bytes> parts) override {
    Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC, "write");
    for (const auto part : parts) file.write(part);
    file.close();
  }

  void append(const Path& path, Bytes bytes) override {
    Descriptor file(path, O_WRONLY | O_CREAT | O_APPEND, "append to");
    file.write(bytes);
    file.close();
  }

  void truncate(const Path& path, uint64_t size) override {
    check_offset("truncate", path, size);
    int failed = 0;
    do failed = ::truncate(path.c_str(), static_cast<off_t>(size));
    while (failed && errno == EINTR);
    if (failed) throw io_error("truncate", path, errno);
  }

  void sync_file(const Path& path) override {
    Descriptor file(path, O_RDONLY, "sync");
    file.sync();
    file.close();
  }

  void sync_directory(const Path& path) override {
    Descriptor folder(path, O_RDONLY | O_DIRECTORY, "sync the folder");
    folder.sync();
    folder.close();
  }

  void rename(const Path& from, const Path& to) override {
    if (::rename(from.c_str(), to.c_str())) throw io_error(text("rename ", from.string(), " to"), to, errno);
  }

  void remove(const Path& path) override {
    if (::unlink(path.c_str())) throw io_error("remove", path, errno);
  }

  void remove_all(const Path& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) throw io_error("remove", path, error.value());
  }

  void create_directories(const Path& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) throw io_error("create the folder", path, error.value());
  }

  bool exists(const Path& path) override {
    struct stat info{};
    if (!::stat(path.c_str(), &info)) return true;
    if (errno == ENOENT || errno == ENOTDIR) return false;
    throw io_error("look at", path, errno);
  }

  std::vector<std::string> list(const Path& path) override {
    std::error_code error;
    std::vector<std::string> names;
    for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
      names.push_back(it->path().filename().string());
    if (error) throw io_error("list the folder", path, error.value());
    std::sort(names.begin(), names.end());
    return names;
  }

  uint64_t size(const Path& path) override {
    struct stat info{};
    if (::stat(path.c_str(), &info)) throw io_error("read", path, errno);
    if (!S_ISREG(info.st_mode)) fail(ErrorKind::io, "cannot read ", path.string(), ": it is not a plain file");
    return static_cast<uint64_t>(info.st_size);
  }

  void read(const Path& path, uint64_t offset, std::span<std::byte> out) override {
    check_offset("read", path, offset);
    Descriptor(path, O_RDONLY, "read").read(offset, out);
  }
};

std::string hint_for(int errno_value) {
  switch (errno_value) {
    case ENOSPC:
      return "the disk is full: free some space there, or choose a folder on another disk";
    case EDQUOT:
      return "your disk quota is used up: free some space there, or choose a folder on another disk";
    case EFBIG:
      return "the file system does not hold files of this size: choose a folder on another disk";
    case EACCES:
    case EPERM:
      return "check who may read and write this file and the folders above it";
    case EROFS:
      return "the disk is mounted for reading only: choose a folder on another disk";
    case EIO:
      return "the disk reported a fault: check it before you rely on what it holds";
    case EMFILE:
    case ENFILE:
      return "too many files are open: raise the limit (ulimit -n)";
    default:
      return {};
  }
}

}  // namespace

FileSystem& real_file_system() {
  static RealFileSystem fs;
  return fs;
}

Error io_error(std::string_view what, const Path& path, int errno_value) {
  return {ErrorKind::io, text("cannot ", what, " ", path.string(), ": ", std::generic_category().message(errno_value)),
          hint_for(errno_value)};
}

void write_bytes(FileSystem& fs, const Path& path, Bytes bytes) {
  fs.write(path, std::span(&bytes, 1));
}

std::vector<std::byte> read_bytes(FileSystem& fs, const Path& path) {
  std::vector<std::byte> out(fs.size(path));
  fs.read(path, 0, out);
  return out;
}

std::string read_text(FileSystem& fs, const Path& path) {
  std::string out(fs.size(path), '\0');
  fs.read(path, 0, std::as_writable_bytes(std::span(out.data(), out.size())));
  return out;
}

Path parent_of(const Path& path) {
  const auto parent = path.parent_path();
  return parent.empty() ? Path(".") : parent;
}

void write_atomically(FileSystem& fs, const Path& path, Bytes bytes) {
  auto partial = path;
  partial += ".tmp";
  try {
    write_bytes(fs, partial, bytes);
    fs.sync_file(partial);
    fs.rename(partial, path);
  } catch (const Error&) {
    try {
      fs.remove_all(partial);
    } catch (const Error&) {  // the first error is the one to report
    }
    throw;
  }
  fs.sync_directory(parent_of(path));
}

void create_durable_directories(FileSystem& fs, const Path& path) {
  std::vector<Path> fresh;  // deepest first
  for (auto folder = path; !fs.exists(folder); folder = parent_of(folder)) {
    fresh.push_back(folder);
    if (parent_of(folder) == folder) break;
  }
  fs.create_directories(path);
  // Also when the folder was there: an earlier process may have died between creating and syncing.
  fs.sync_directory(parent_of(path));
  for (size_t i = 1; i < fresh.size(); ++i) fs.sync_directory(parent_of(fresh[i]));
}

}  // namespace collegium::io
