// SHA-256 (FIPS 180-4) as 64 lower-case hexadecimal digits.
#pragma once
#include <memory>
#include <string>

#include "collegium/io/fs.h"

namespace collegium::io {

/// The hash of bytes that come in parts.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(Bytes bytes);
  /// The hash of all bytes so far. Ends the object's use.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(Bytes bytes);
inline std::string sha256_hex(std::string_view text) {
  return sha256_hex(as_bytes(text));
}

/// The hash of a file, read in parts of 4 MiB. Throws an Error of kind io.
std::string sha256_hex_of_file(FileSystem& fs, const Path& path);

}  // namespace collegium::io
