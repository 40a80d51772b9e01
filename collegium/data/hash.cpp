#include "collegium/data/hash.h"

#include <openssl/evp.h>

#include <array>
#include <cstdio>
#include <memory>
#include <vector>

#include "collegium/base/error.h"

namespace collegium::data {
namespace {

class Sha256State {
 public:
  Sha256State() : state_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    ensure(state_ && EVP_DigestInit_ex(state_.get(), EVP_sha256(), nullptr) == 1, "SHA-256 is not available");
  }
  void add(const void* bytes, size_t n) { ensure(EVP_DigestUpdate(state_.get(), bytes, n) == 1, "SHA-256 failed"); }
  std::string hex() {
    std::array<unsigned char, 32> digest{};
    unsigned int length = 0;
    ensure(EVP_DigestFinal_ex(state_.get(), digest.data(), &length) == 1 && length == 32, "SHA-256 failed");
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    for (const auto byte : digest) {
      out += digits[byte >> 4];
      out += digits[byte & 15];
    }
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> state_;
};

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  Sha256State state;
  state.add(bytes.data(), bytes.size());
  return state.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) fail(ErrorKind::io, path.string(), ": cannot be opened for reading");
  Sha256State state;
  std::vector<char> block(1 << 20);
  while (const auto n = std::fread(block.data(), 1, block.size(), file.get())) state.add(block.data(), n);
  if (std::ferror(file.get())) fail(ErrorKind::io, path.string(), ": reading failed");
  return state.hex();
}

}  // namespace collegium::data
