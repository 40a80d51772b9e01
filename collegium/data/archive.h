// Reading tar.gz archives.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace collegium::data {

struct ArchiveMember {
  std::string name;  ///< path inside the archive, as stored
  std::string bytes;
};

/// The regular files of a .tar.gz for which `wanted` holds, by name in byte order; nothing is written to disk.
/// Links and special files are passed over. Throws Error(io) when the file cannot be opened, Error(data) when
/// it is no archive, ends early, or a wanted file is larger than `largest` bytes (against decompression bombs).
std::vector<ArchiveMember> read_archive(const std::filesystem::path& path,
                                        const std::function<bool(std::string_view)>& wanted,
                                        int64_t largest = int64_t{64} << 20);

}  // namespace collegium::data
