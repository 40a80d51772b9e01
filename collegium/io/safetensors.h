// The safetensors format, read with every check that its specification asks for and written so that the Python
// package and transformers read it back.
//
//   8 bytes        length n of the header, little-endian, at most 100 MB
//   n bytes        JSON: {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets": [begin, end]}, …}
//   the rest       the tensors' bytes, row-major and little-endian, without a gap or an overlap
//
// Types: F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL. Source: github.com/huggingface/safetensors, README "Format".
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/io/fs.h"

namespace collegium::io {

using at::Tensor;

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

using Metadata = std::map<std::string, std::string>;

/// What a file holds of one tensor. `begin` and `end` count bytes from the start of the file.
struct TensorEntry {
  std::string name;
  at::ScalarType type;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> entries;  ///< in the order of the header
  Metadata metadata;
};

/// A file's content, laid out but not copied: `parts` one after another are the file. Holds the tensors that the
/// parts point into; they must not change until it is written.
struct SafetensorsImage {
  std::shared_ptr<const std::string> head;  ///< length and header
  std::vector<Tensor> kept;
  std::vector<Bytes> parts;
  uint64_t size = 0;  ///< bytes in all
};

/// Lays out `tensors` in their order (wider types' bytes first, so that each tensor is aligned to its type).
/// Tensors on other devices, or with gaps, are copied. Throws a usage Error that names the tensor: a name given
/// twice or not UTF-8, a tensor that is undefined, not dense or of another type.
SafetensorsImage lay_out_safetensors(const std::vector<NamedTensor>& tensors, const Metadata& metadata = {});

/// The file as one piece of memory.
std::vector<std::byte> safetensors_bytes(const std::vector<NamedTensor>& tensors, const Metadata& metadata = {});

/// Writes the file; not synced. Throws Errors of kind usage and io.
void write_safetensors(FileSystem& fs, const Path& path, const std::vector<NamedTensor>& tensors,
                       const Metadata& metadata = {});

/// Checks and reads the header of a file of `file_size` bytes, from its first bytes (at least length and header).
/// Throws an Error of kind data that names `what` and says what is wrong.
SafetensorsHeader parse_safetensors_header(Bytes first_bytes, uint64_t file_size, std::string_view what);

/// All tensors of a file held in memory, copied out. Throws an Error of kind data.
std::vector<NamedTensor> parse_safetensors(Bytes file, std::string_view what);

/// A file of tensors, opened and checked; each tensor is read when asked for, so a large file never stands in
/// memory beside its tensors. `fs` must outlive it.
class SafetensorsFile {
 public:
  /// Throws an Error of kind data when the file is not as the format wants it, of kind io when it is unreadable.
  SafetensorsFile(FileSystem& fs, Path path);

  const std::vector<TensorEntry>& entries() const { return header_.entries; }
  const Metadata& metadata() const { return header_.metadata; }
  bool contains(std::string_view name) const { return index_.contains(name); }
  const TensorEntry& entry(std::string_view name) const;  ///< Error of kind data, with the nearest name, when unknown
  Tensor read(std::string_view name) const;
  std::vector<NamedTensor> read_all() const;

 private:
  Tensor read(const TensorEntry& entry) const;

  FileSystem& fs_;
  Path path_;
  SafetensorsHeader header_;
  std::map<std::string, size_t, std::less<>> index_;
};

/// "F32" for at::kFloat; "" for a type that the format does not hold.
std::string_view safetensors_type_name(at::ScalarType type);

}  // namespace collegium::io
