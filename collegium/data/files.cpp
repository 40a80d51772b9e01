#include "collegium/data/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "collegium/base/error.h"

namespace collegium::data {
namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : number_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

[[noreturn]] void fail_with_errno(const fs::path& path, std::string_view action) {
  const int code = errno;
  fail(ErrorKind::io, path.string(), ": ", action, " failed: ", std::strerror(code));
}

// A rename is only lasting once the folder that holds the name has reached the disk.
void flush_folder(const fs::path& folder) {
  const Descriptor open_folder(folder, O_RDONLY | O_DIRECTORY);
  if (open_folder.number() >= 0) ::fsync(open_folder.number());
}

}  // namespace

std::string read_bytes(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || fs::is_directory(path)) fail(ErrorKind::io, path.string(), ": cannot be opened for reading");
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  if (in.bad()) fail(ErrorKind::io, path.string(), ": reading failed");
  return bytes;
}

void write_whole(const fs::path& path, std::string_view bytes) {
  const auto beside = fs::path(text(path.string(), ".", ::getpid(), ".tmp"));
  {
    const Descriptor out(beside, O_WRONLY | O_CREAT | O_TRUNC);
    if (out.number() < 0) fail_with_errno(beside, "creating");
    while (!bytes.empty()) {
      const auto n = ::write(out.number(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        const int code = errno;
        ::unlink(beside.c_str());
        errno = code;
        fail_with_errno(path, "writing");
      }
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    if (::fsync(out.number()) != 0) fail_with_errno(path, "flushing");
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) fail_with_errno(path, "renaming");
  flush_folder(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

void make_folder(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code) fail(ErrorKind::io, path.string(), ": cannot create the folder: ", code.message());
}

WorkFolder::WorkFolder(const fs::path& parent) {
  make_folder(parent);
  auto name = (parent / ".work-XXXXXX").string();
  if (!::mkdtemp(name.data())) fail_with_errno(parent, "creating a folder below it");
  path_ = name;
}

WorkFolder::~WorkFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

void WorkFolder::keep_as(const fs::path& target) {
  if (::rename(path_.c_str(), target.c_str()) == 0) {
    path_.clear();
    flush_folder(target.parent_path());
    return;
  }
  if (errno == EEXIST || errno == ENOTEMPTY) return;
  fail_with_errno(target, "renaming");
}

}  // namespace collegium::data
