#include "collegium/io/jsonl.h"

#include <algorithm>

#include "collegium/io/json.h"

namespace collegium::io {
namespace {

/// Bytes up to and with the last line end, read from the back.
uint64_t complete_size(FileSystem& fs, const Path& path) {
  constexpr uint64_t chunk = 64 << 10;
  std::string buffer;
  for (auto end = fs.size(path); end > 0;) {
    const auto begin = end - std::min(end, chunk);
    buffer.resize(end - begin);
    fs.read(path, begin, std::as_writable_bytes(std::span(buffer.data(), buffer.size())));
    const auto found = buffer.rfind('\n');
    if (found != std::string::npos) return begin + found + 1;
    end = begin;
  }
  return 0;
}

}  // namespace

JsonLines::JsonLines(FileSystem& fs, Path path) : fs_(fs), path_(std::move(path)) {
  if (!fs_.exists(path_)) {
    fs_.append(path_, {});
    fs_.sync_directory(parent_of(path_));
    return;
  }
  size_ = complete_size(fs_, path_);
  if (size_ < fs_.size(path_)) fs_.truncate(path_, size_);
}

void JsonLines::append(const nlohmann::json& row) {
  const auto line = dump_json(row) + "\n";
  if (is_torn_) fs_.truncate(path_, size_);
  is_torn_ = true;
  fs_.append(path_, as_bytes(line));
  is_torn_ = false;
  size_ += line.size();
}

void JsonLines::flush() {
  fs_.sync_file(path_);
}

void JsonLines::truncate_to(uint64_t bytes) {
  const auto hint = "the log is not the one that the checkpoint belongs to: put it back, or start a new run";
  if (bytes > size_)
    throw Error(ErrorKind::data, text(path_.string(), ": has ", size_, " bytes of rows, wanted at least ", bytes),
                hint);
  if (bytes > 0) {
    std::byte last{};
    fs_.read(path_, bytes - 1, std::span(&last, 1));
    if (last != std::byte{'\n'})
      throw Error(ErrorKind::data, text(path_.string(), ": no row ends at byte ", bytes), hint);
  }
  fs_.truncate(path_, bytes);
  size_ = bytes;
  is_torn_ = false;
  flush();
}

std::vector<nlohmann::json> JsonLines::keep_while(const std::function<bool(const nlohmann::json&)>& belongs) {
  const auto content = read_text(fs_, path_);
  std::vector<nlohmann::json> kept;
  uint64_t bytes = 0;
  while (bytes < size_) {
    const auto end = content.find('\n', bytes);
    auto row =
        parse_json(std::string_view(content).substr(bytes, end - bytes), text(path_.string(), ":", kept.size() + 1));
    if (!belongs(row)) break;
    kept.push_back(std::move(row));
    bytes = end + 1;
  }
  if (bytes < size_) truncate_to(bytes);
  return kept;
}

JsonLinesContent read_json_lines(FileSystem& fs, const Path& path) {
  const auto content = read_text(fs, path);
  JsonLinesContent out;
  std::string_view rest = content;
  for (size_t line = 1; !rest.empty(); ++line) {
    const auto end = rest.find('\n');
    if (end == std::string_view::npos) {
      out.is_torn = true;
      break;
    }
    out.rows.push_back(parse_json(rest.substr(0, end), text(path.string(), ":", line)));
    rest.remove_prefix(end + 1);
  }
  return out;
}

}  // namespace collegium::io
