// Whole files in and out. A written file appears complete or not at all.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

namespace collegium::data {

/// The file's bytes. Throws Error(io).
std::string read_bytes(const std::filesystem::path& path);

/// Writes beside `path`, flushes to the disk and renames: readers see the old content or the new. Throws Error(io).
void write_whole(const std::filesystem::path& path, std::string_view bytes);

/// Creates the folder and those above it. Throws Error(io).
void make_folder(const std::filesystem::path& path);

/// A folder with a fresh name below `parent`, removed with everything in it unless `keep_as` moved it away.
class WorkFolder {
 public:
  explicit WorkFolder(const std::filesystem::path& parent);
  ~WorkFolder();
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  /// Renames the folder to `target`. When another process was faster, its folder stays and ours goes.
  void keep_as(const std::filesystem::path& target);

 private:
  std::filesystem::path path_;
};

}  // namespace collegium::data
