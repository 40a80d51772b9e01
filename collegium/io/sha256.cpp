#include "collegium/io/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

namespace collegium::io {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() = default;
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  ensure(state_->context && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1, "SHA-256 does not start");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(Bytes bytes) {
  ensure(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1, "SHA-256 does not go on");
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  ensure(EVP_DigestFinal_ex(state_->context, digest.data(), &size) == 1, "SHA-256 does not end");
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < size; ++i) {
    out += digits[digest[i] >> 4];
    out += digits[digest[i] & 15];
  }
  return out;
}

std::string sha256_hex(Bytes bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_hex_of_file(FileSystem& fs, const Path& path) {
  constexpr uint64_t chunk = 4 << 20;
  const auto size = fs.size(path);
  std::vector<std::byte> buffer(std::min(size, chunk));
  Sha256 hash;
  for (uint64_t offset = 0; offset < size; offset += chunk) {
    const auto part = std::span(buffer).first(std::min(chunk, size - offset));
    fs.read(path, offset, part);
    hash.update(part);
  }
  return hash.hex();
}

}  // namespace collegium::io
