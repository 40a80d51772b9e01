// Token files: all documents of one split, tokenised once and mapped into memory.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace collegium::data {

/// Where one document lies in the token stream.
struct DocumentSpan {
  std::string id, title, language;
  int64_t begin = 0;     ///< first token
  int64_t n_tokens = 0;  ///< with the end token
  int64_t n_bytes = 0;   ///< UTF-8 bytes of the text
  int64_t n_prompt = 0;  ///< the first so many tokens are given: read, and not counted in any loss
};

/// The tokens of one split, read-only. Copies share the memory.
class TokenSet {
 public:
  TokenSet() = default;

  /// Tokens in memory. `byte_lengths`: bytes of each token of the vocabulary. Documents tile the stream in order
  /// (std::logic_error otherwise); none = one nameless document.
  TokenSet(std::vector<int32_t> tokens, std::vector<int32_t> byte_lengths, std::vector<DocumentSpan> documents = {});

  /// Maps a file of `width` bytes a token (2 or 4, little-endian), as `pack_tokens` makes it. Throws Error(io) when
  /// it cannot be read, Error(data) when its size is not that of `documents`.
  static TokenSet map(const std::filesystem::path& path, int width, std::vector<int32_t> byte_lengths,
                      std::vector<DocumentSpan> documents);

  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_documents() const { return static_cast<int64_t>(documents_.size()); }
  int64_t n_bytes() const;  ///< UTF-8 bytes of the documents' texts
  int64_t vocab_size() const { return static_cast<int64_t>(byte_lengths_.size()); }
  std::span<const DocumentSpan> documents() const { return documents_; }

  int32_t token(int64_t at) const;
  /// Tokens [begin, begin + count) as int64 to `to`.
  void copy(int64_t begin, int64_t count, int64_t* to) const;
  /// How often each token of the vocabulary occurs. [vocab_size]
  std::vector<int64_t> counts() const;
  /// Whether any document begins with a prompt.
  bool has_prompts() const;
  /// Index of the document that token `at` belongs to.
  int64_t document_at(int64_t at) const;
  /// UTF-8 bytes that `token` stands for; 0 for the end token.
  int32_t bytes_of(int64_t token) const { return byte_lengths_[static_cast<size_t>(token)]; }

 private:
  std::shared_ptr<const void> memory_;
  const uint16_t* narrow_ = nullptr;  // one of both is set
  const int32_t* wide_ = nullptr;
  int64_t n_tokens_ = 0;
  std::vector<int32_t> byte_lengths_;
  std::vector<DocumentSpan> documents_;

  void check_documents() const;
};

/// Bytes a token takes on disk: 2 while every id fits, else 4.
int token_width(int64_t vocab_size);

/// Tokens in `width` bytes each, little-endian.
std::string pack_tokens(std::span<const int32_t> tokens, int width);

}  // namespace collegium::data
