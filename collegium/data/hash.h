// SHA-256, as lowercase hex: what names a data set, a prepared folder and a token file.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

namespace collegium::data {

/// 64 hex digits of the SHA-256 of `bytes`.
std::string sha256_hex(std::string_view bytes);

/// 64 hex digits of the SHA-256 of the file's content, read in blocks. Throws Error(io) when it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace collegium::data
