// Byte-level tokenizers: plain bytes, or byte pair encoding (BPE). Both are one kind of object, since bytes are BPE
// without a merge, and both are saved as a `tokenizer.json` that Hugging Face's `tokenizers` reads with equal ids.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace collegium::data {

/// The text of the special token between documents. Text that contains it is encoded as ordinary bytes: no document
/// can end itself.
inline constexpr std::string_view kEndToken = "<|end|>";

/// Two tokens that become one; the earlier of a list goes first.
struct Merge {
  int32_t left, right;
};

class Tokenizer {
 public:
  /// Token = byte, ids 0 to 255; the end token has id 256.
  static Tokenizer of_bytes();

  /// Ids 0 to 255 are bytes; each merge whose bytes are not a token yet adds the next id; the end token is last.
  static Tokenizer of_merges(std::span<const Merge> merges);

  /// Reads a byte-level BPE `tokenizer.json`, ours or one of GPT-2's kind. Throws Error(io) when it cannot be read,
  /// Error(data) when it is damaged or uses a part that is not supported (named in the message).
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer parse(std::string_view json, std::string_view name);

  /// The content of a `tokenizer.json`; equal tokenizers give equal text.
  std::string to_json() const;
  void save(const std::filesystem::path& path) const;

  /// Ids of `text` (any bytes), never the end token. Safe to call from several threads.
  std::vector<int32_t> encode(std::string_view text) const;

  /// The bytes of the tokens, end tokens left out; `decode` puts U+FFFD where they are not UTF-8.
  /// Throws usage Error for an id outside the vocabulary.
  std::string decode_bytes(std::span<const int32_t> ids) const;
  std::string decode(std::span<const int32_t> ids) const;

  int64_t vocab_size() const;  ///< with the end token
  int32_t end_id() const;
  /// The bytes one token stands for; empty for the end token.
  std::string_view token_bytes(int32_t id) const;
  /// Bytes of every token, by id: what turns nats a token into bits a byte.
  std::vector<int32_t> byte_lengths() const;
  std::string_view kind() const;  ///< "byte" or "bpe"

 private:
  friend struct TokenizerJson;
  struct Model;
  explicit Tokenizer(std::shared_ptr<const Model> model) : model_(std::move(model)) {}
  std::shared_ptr<const Model> model_;
};

/// Text from tokens as they come: holds back bytes until they are whole characters.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// What can be shown after `id`; may be empty.
  std::string push(int32_t id);
  /// The rest; an unfinished character becomes U+FFFD.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string held_;
};

}  // namespace collegium::data
