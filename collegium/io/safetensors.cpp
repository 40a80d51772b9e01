#include "collegium/io/safetensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "collegium/io/json.h"

namespace collegium::io {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and is copied as it stands");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kHeaderCap = 100'000'000;
constexpr size_t kMaxDims = 64;
constexpr std::string_view kMetadataKey = "__metadata__";

struct DtypeRow {
  std::string_view name;
  at::ScalarType type;
  uint64_t bytes;
};

constexpr std::array<DtypeRow, 10> kDtypes = {{{"F64", at::kDouble, 8},
                                               {"F32", at::kFloat, 4},
                                               {"F16", at::kHalf, 2},
                                               {"BF16", at::kBFloat16, 2},
                                               {"I64", at::kLong, 8},
                                               {"I32", at::kInt, 4},
                                               {"I16", at::kShort, 2},
                                               {"I8", at::kChar, 1},
                                               {"U8", at::kByte, 1},
                                               {"BOOL", at::kBool, 1}}};

const DtypeRow* find_dtype(at::ScalarType type) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& row) { return row.type == type; });
  return found == kDtypes.end() ? nullptr : &*found;
}

const DtypeRow* find_dtype(std::string_view name) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& row) { return row.name == name; });
  return found == kDtypes.end() ? nullptr : &*found;
}

std::string known_dtypes() {
  std::vector<std::string> names;
  for (const auto& row : kDtypes) names.emplace_back(row.name);
  return join(names);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> sizes;
  for (const auto size : shape) sizes.push_back(std::to_string(size));
  return "[" + join(sizes) + "]";
}

/// One header under check; every message starts with the file.
class HeaderReader {
 public:
  HeaderReader(Bytes first_bytes, uint64_t file_size, std::string_view what)
      : first_(first_bytes), file_size_(file_size), what_(what) {}

  SafetensorsHeader read() {
    const auto document = parse_document(header_text(), what_, {.depth = 4, .list_elements = kMaxDims});
    if (!document.root.is_object()) wrong("the header is not a JSON object");
    SafetensorsHeader out;
    for (const auto& key : document.keys) {
      if (key == kMetadataKey)
        out.metadata = read_metadata(document.root[key]);
      else
        out.entries.push_back(read_entry(key, document.root[key]));
    }
    check_cover(out.entries);
    return out;
  }

 private:
  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    throw Error(ErrorKind::data, text(what_, ": not a valid safetensors file: ", parts...),
                "the file is damaged, cut short or of another kind: fetch or write it again");
  }

  std::string_view header_text() {
    if (file_size_ < kLengthBytes) wrong("it has ", file_size_, " bytes, fewer than the 8 of the header's length");
    ensure(first_.size() >= kLengthBytes, "a safetensors header is read from at least 8 bytes");
    uint64_t length = 0;
    std::memcpy(&length, first_.data(), sizeof length);
    if (length > kHeaderCap) wrong("a header of ", length, " bytes; at most ", kHeaderCap, " are allowed");
    if (length > file_size_ - kLengthBytes) wrong("a header of ", length, " bytes in a file of ", file_size_, " bytes");
    ensure(first_.size() >= kLengthBytes + length, "the whole safetensors header must be there");
    data_begin_ = kLengthBytes + length;
    const auto bytes = first_.subspan(kLengthBytes, length);
    const std::string_view header(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (header.empty() || header.front() != '{') wrong("the header does not start with '{'");
    return header;
  }

  Metadata read_metadata(const nlohmann::json& value) const {
    if (!value.is_object()) wrong("__metadata__ must map text to text");
    Metadata out;
    for (const auto& [key, element] : value.items()) {
      if (!element.is_string()) wrong("__metadata__ '", printable(key), "' must be text, got ", element.type_name());
      out[key] = element.get<std::string>();
    }
    return out;
  }

  TensorEntry read_entry(const std::string& name, const nlohmann::json& value) const {
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets"))
      wrong("tensor '", printable(name), "' must have dtype, shape and data_offsets, and nothing else");
    if (!value["dtype"].is_string()) wrong("tensor '", printable(name), "': dtype must be text");
    const auto& type_name = value["dtype"].get_ref<const std::string&>();
    const auto* type = find_dtype(type_name);
    if (!type)
      wrong("tensor '", printable(name), "': unknown dtype '", printable(type_name), "' (known: ", known_dtypes(), ")");

    const auto shape = read_counts(name, "shape", value["shape"]);
    const auto offsets = read_counts(name, "data_offsets", value["data_offsets"]);
    const auto data_size = file_size_ - data_begin_;
    if (offsets.size() != 2) wrong("tensor '", printable(name), "': data_offsets must be [begin, end]");
    const auto begin = static_cast<uint64_t>(offsets[0]), end = static_cast<uint64_t>(offsets[1]);
    if (begin > end || end > data_size)
      wrong("tensor '", printable(name), "': data_offsets [", begin, ", ", end, "] do not lie in the ", data_size,
            " bytes of data");
    const auto wanted = byte_size(name, shape, type->bytes);
    if (end - begin != wanted)
      wrong("tensor '", printable(name), "': ", type_name, shape_text(shape), " is ", wanted,
            " bytes, but data_offsets give ", end - begin);
    return {name, type->type, shape, data_begin_ + begin, data_begin_ + end};
  }

  std::vector<int64_t> read_counts(const std::string& name, std::string_view field, const nlohmann::json& list) const {
    if (!list.is_array()) wrong("tensor '", printable(name), "': ", field, " must be a list");
    std::vector<int64_t> out;
    for (const auto& element : list) {
      // The JSON parser calls exactly the integers from 0 to 2^64-1 unsigned.
      if (!element.is_number_unsigned() ||
          element.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        wrong("tensor '", printable(name), "': ", field, " must hold integers from 0 to 2^63-1, got ",
              printable(dump_json(element)));
      out.push_back(element.get<int64_t>());
    }
    return out;
  }

  // Zeros count as ones while overflow is looked for, since strides are products of the other sizes.
  uint64_t byte_size(const std::string& name, const std::vector<int64_t>& shape, uint64_t element_bytes) const {
    auto product = static_cast<int64_t>(element_bytes);
    bool is_empty = false;
    for (const auto size : shape) {
      is_empty |= size == 0;
      if (__builtin_mul_overflow(product, std::max<int64_t>(size, 1), &product))
        wrong("tensor '", printable(name), "': the size of shape ", shape_text(shape), " overflows");
    }
    return is_empty ? 0 : static_cast<uint64_t>(product);
  }

  // Sorted by place, each tensor must begin where the one before ended: then nothing overlaps, nothing is left
  // out, and the sizes add up to the file's length.
  void check_cover(const std::vector<TensorEntry>& entries) const {
    std::vector<const TensorEntry*> sorted;
    for (const auto& entry : entries) sorted.push_back(&entry);
    std::sort(sorted.begin(), sorted.end(),
              [](const auto* a, const auto* b) { return std::pair(a->begin, a->end) < std::pair(b->begin, b->end); });
    auto reached = data_begin_;
    for (const auto* entry : sorted) {
      if (entry->begin < reached) wrong("tensor '", printable(entry->name), "' overlaps the one before it");
      if (entry->begin > reached)
        wrong("a hole of ", entry->begin - reached, " bytes before tensor '", printable(entry->name), "'");
      reached = entry->end;
    }
    if (reached != file_size_) wrong(file_size_ - reached, " bytes at the end belong to no tensor");
  }

  Bytes first_;
  uint64_t file_size_;
  std::string_view what_;
  uint64_t data_begin_ = 0;
};

// A bool other than 0 or 1 is undefined behaviour for every later reader.
void check_bools(const TensorEntry& entry, Bytes bytes, std::string_view what) {
  if (entry.type != at::kBool) return;
  const auto bad = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return std::to_integer<int>(b) > 1; });
  if (bad != bytes.end())
    fail(ErrorKind::data, what, ": tensor '", printable(entry.name), "' is BOOL, but its byte ", bad - bytes.begin(),
         " is ", std::to_integer<int>(*bad));
}

std::span<std::byte> storage_of(const Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

void check_writable(const NamedTensor& named, std::set<std::string_view>& names) {
  require(names.insert(named.name).second, "safetensors: two tensors are called '", named.name, "'");
  require(named.name != kMetadataKey, "safetensors: no tensor may be called '", kMetadataKey, "'");
  require(named.tensor.defined(), "safetensors: tensor '", named.name, "' is undefined");
  require(named.tensor.layout() == at::kStrided, "safetensors: tensor '", named.name, "' must be dense");
  require(find_dtype(named.tensor.scalar_type()), "safetensors: tensor '", named.name, "' has type ",
          at::toString(named.tensor.scalar_type()), "; the format holds ", known_dtypes());
}

}  // namespace

std::string_view safetensors_type_name(at::ScalarType type) {
  const auto* row = find_dtype(type);
  return row ? row->name : "";
}

SafetensorsImage lay_out_safetensors(const std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  std::set<std::string_view> names;
  for (const auto& named : tensors) check_writable(named, names);

  // Python maps the file and needs each tensor aligned to its type; wider types first give that without gaps.
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto width = [&](size_t i) { return find_dtype(tensors[i].tensor.scalar_type())->bytes; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return width(a) > width(b); });

  SafetensorsImage image;
  image.kept.resize(tensors.size());
  image.parts.emplace_back();  // the head, once it is known
  std::vector<uint64_t> begin(tensors.size());
  uint64_t data_size = 0;
  for (const auto i : order) {
    image.kept[i] = tensors[i].tensor.detach().to(at::kCPU).resolve_conj().resolve_neg().contiguous();
    begin[i] = data_size;
    image.parts.push_back(storage_of(image.kept[i]));
    data_size += image.parts.back().size();
  }

  // Assembled as text to keep the order of the list: the library sorts keys.
  std::vector<std::string> fields;
  if (!metadata.empty())
    fields.push_back(dump_json(std::string(kMetadataKey)) + ":" + dump_json(nlohmann::json(metadata)));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& tensor = image.kept[i];
    const nlohmann::json entry = {{"dtype", safetensors_type_name(tensor.scalar_type())},
                                  {"shape", tensor.sizes().vec()},
                                  {"data_offsets", {begin[i], begin[i] + tensor.nbytes()}}};
    fields.push_back(dump_json(tensors[i].name) + ":" + dump_json(entry));
  }
  auto header = "{" + join(fields, ",") + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  require(header.size() <= kHeaderCap, "safetensors: ", tensors.size(), " tensors need a header of ", header.size(),
          " bytes; at most ", kHeaderCap, " are allowed");

  const uint64_t length = header.size();
  image.head =
      std::make_shared<const std::string>(std::string(reinterpret_cast<const char*>(&length), sizeof length) + header);
  image.size = image.head->size() + data_size;
  image.parts.front() = as_bytes(*image.head);
  return image;
}

std::vector<std::byte> safetensors_bytes(const std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  const auto image = lay_out_safetensors(tensors, metadata);
  std::vector<std::byte> out;
  out.reserve(image.size);
  for (const auto part : image.parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

void write_safetensors(FileSystem& fs, const Path& path, const std::vector<NamedTensor>& tensors,
                       const Metadata& metadata) {
  fs.write(path, lay_out_safetensors(tensors, metadata).parts);
}

SafetensorsHeader parse_safetensors_header(Bytes first_bytes, uint64_t file_size, std::string_view what) {
  return HeaderReader(first_bytes, file_size, what).read();
}

std::vector<NamedTensor> parse_safetensors(Bytes file, std::string_view what) {
  const auto header = parse_safetensors_header(file, file.size(), what);
  std::vector<NamedTensor> out;
  for (const auto& entry : header.entries) {
    const auto bytes = file.subspan(entry.begin, entry.end - entry.begin);
    check_bools(entry, bytes, what);
    auto tensor = at::empty(entry.shape, at::TensorOptions(entry.type));
    std::copy(bytes.begin(), bytes.end(), storage_of(tensor).begin());
    out.push_back({entry.name, std::move(tensor)});
  }
  return out;
}

SafetensorsFile::SafetensorsFile(FileSystem& fs, Path path) : fs_(fs), path_(std::move(path)) {
  const auto file_size = fs_.size(path_);
  uint64_t length = 0;
  if (file_size >= kLengthBytes) fs_.read(path_, 0, std::as_writable_bytes(std::span(&length, 1)));
  // An impossible length is left for the parser to name: it needs no more than the first 8 bytes to see it.
  const bool is_possible = file_size >= kLengthBytes && length <= kHeaderCap && length <= file_size - kLengthBytes;
  std::vector<std::byte> first(std::min(file_size, kLengthBytes + (is_possible ? length : 0)));
  fs_.read(path_, 0, first);
  header_ = parse_safetensors_header(first, file_size, path_.string());
  for (size_t i = 0; i < header_.entries.size(); ++i) index_.emplace(header_.entries[i].name, i);
}

const TensorEntry& SafetensorsFile::entry(std::string_view name) const {
  const auto found = index_.find(name);
  if (found != index_.end()) return header_.entries[found->second];
  std::vector<std::string> known;
  for (const auto& each : header_.entries) known.push_back(each.name);
  const auto near = nearest(name, known);
  throw Error(ErrorKind::data, text(path_.string(), ": has no tensor '", name, "'",
                                    near.empty() ? "" : text("; did you mean '", near, "'?")));
}

Tensor SafetensorsFile::read(std::string_view name) const {
  return read(entry(name));
}

Tensor SafetensorsFile::read(const TensorEntry& entry) const {
  auto tensor = at::empty(entry.shape, at::TensorOptions(entry.type));
  fs_.read(path_, entry.begin, storage_of(tensor));
  check_bools(entry, storage_of(tensor), path_.string());
  return tensor;
}

std::vector<NamedTensor> SafetensorsFile::read_all() const {
  std::vector<NamedTensor> out;
  for (const auto& entry : header_.entries) out.push_back({entry.name, read(entry)});
  return out;
}

}  // namespace collegium::io
