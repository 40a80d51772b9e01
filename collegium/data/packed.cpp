#include "collegium/data/packed.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "collegium/base/error.h"

namespace collegium::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian and mapped as they are");

std::shared_ptr<const void> map_file(const std::filesystem::path& path, size_t wanted) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(ErrorKind::io, path.string(), ": cannot be opened: ", std::strerror(errno));
  struct stat status{};
  const bool known = ::fstat(file, &status) == 0;
  const auto size = known ? static_cast<size_t>(status.st_size) : 0;
  void* memory = known && size == wanted && size > 0 ? ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0) : nullptr;
  const int code = errno;
  ::close(file);
  if (size != wanted)
    throw Error(ErrorKind::data, text(path.string(), ": ", wanted, " bytes of tokens wanted, found ", size),
                "remove the folder; it is made again");
  if (memory == MAP_FAILED) fail(ErrorKind::io, path.string(), ": cannot be mapped: ", std::strerror(code));
  return {memory, [size](const void* mapped) {
            if (mapped) ::munmap(const_cast<void*>(mapped), size);
          }};
}

}  // namespace

TokenSet::TokenSet(std::vector<int32_t> tokens, std::vector<int32_t> byte_lengths, std::vector<DocumentSpan> documents)
    : n_tokens_(static_cast<int64_t>(tokens.size())),
      byte_lengths_(std::move(byte_lengths)),
      documents_(std::move(documents)) {
  for (const auto token : tokens)
    ensure(token >= 0 && token < vocab_size(), "token ", token, " is outside the vocabulary of ", vocab_size());
  const auto kept = std::make_shared<const std::vector<int32_t>>(std::move(tokens));
  wide_ = kept->data();
  memory_ = kept;
  if (documents_.empty()) {
    documents_.push_back({.n_tokens = n_tokens_});
    for (const auto token : *kept) documents_[0].n_bytes += bytes_of(token);
  }
  check_documents();
}

TokenSet TokenSet::map(const std::filesystem::path& path, int width, std::vector<int32_t> byte_lengths,
                       std::vector<DocumentSpan> documents) {
  ensure(width == 2 || width == 4, "tokens of ", width, " bytes");
  TokenSet out;
  out.byte_lengths_ = std::move(byte_lengths);
  out.documents_ = std::move(documents);
  for (const auto& document : out.documents_) out.n_tokens_ += document.n_tokens;
  out.memory_ = map_file(path, static_cast<size_t>(out.n_tokens_) * static_cast<size_t>(width));
  if (width == 2) out.narrow_ = static_cast<const uint16_t*>(out.memory_.get());
  if (width == 4) out.wide_ = static_cast<const int32_t*>(out.memory_.get());
  out.check_documents();
  return out;
}

void TokenSet::check_documents() const {
  int64_t at = 0;
  for (const auto& document : documents_) {
    ensure(document.n_prompt >= 0 && document.n_prompt <= document.n_tokens, "document '", document.id, "' of ",
           document.n_tokens, " tokens has a prompt of ", document.n_prompt);
    ensure(document.begin == at && document.n_tokens >= 0, "document '", document.id, "' begins at ", document.begin,
           ", not at ", at);
    at += document.n_tokens;
  }
  ensure(at == n_tokens_, "documents cover ", at, " of ", n_tokens_, " tokens");
}

int64_t TokenSet::n_bytes() const {
  return std::accumulate(documents_.begin(), documents_.end(), int64_t{0},
                         [](int64_t sum, const auto& document) { return sum + document.n_bytes; });
}

int32_t TokenSet::token(int64_t at) const {
  ensure(at >= 0 && at < n_tokens_, "token ", at, " of ", n_tokens_);
  return narrow_ ? narrow_[at] : wide_[at];
}

void TokenSet::copy(int64_t begin, int64_t count, int64_t* to) const {
  ensure(begin >= 0 && count >= 0 && begin + count <= n_tokens_, "tokens [", begin, ", ", begin + count, ") of ",
         n_tokens_);
  if (narrow_)
    std::copy(narrow_ + begin, narrow_ + begin + count, to);
  else
    std::copy(wide_ + begin, wide_ + begin + count, to);
}

std::vector<int64_t> TokenSet::counts() const {
  std::vector<int64_t> count_V(byte_lengths_.size());
  for (int64_t i = 0; i < n_tokens_; ++i) ++count_V[static_cast<size_t>(narrow_ ? narrow_[i] : wide_[i])];
  return count_V;
}

bool TokenSet::has_prompts() const {
  return std::any_of(documents_.begin(), documents_.end(), [](const auto& document) { return document.n_prompt > 0; });
}

int64_t TokenSet::document_at(int64_t at) const {
  ensure(at >= 0 && at < n_tokens_, "token ", at, " of ", n_tokens_);
  const auto after = std::upper_bound(documents_.begin(), documents_.end(), at,
                                      [](int64_t position, const auto& document) { return position < document.begin; });
  return after - documents_.begin() - 1;
}

int token_width(int64_t vocab_size) {
  return vocab_size <= 65536 ? 2 : 4;
}

std::string pack_tokens(std::span<const int32_t> tokens, int width) {
  ensure(width == 2 || width == 4, "tokens of ", width, " bytes");
  std::string out(tokens.size() * static_cast<size_t>(width), '\0');
  for (size_t i = 0; i < tokens.size(); ++i)
    std::memcpy(out.data() + i * static_cast<size_t>(width), &tokens[i], static_cast<size_t>(width));
  return out;
}

}  // namespace collegium::data
