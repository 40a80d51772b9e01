// An append-only log of JSON rows, one a line: metrics that survive a kill at any moment and that a resumed run
// cuts back to where its checkpoint stands.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "collegium/io/fs.h"

namespace collegium::io {

/// Writes the log. Rows reach the system at once; `flush` makes them durable. One writer at a time.
class JsonLines {
 public:
  /// Opens the log, or creates it (not its folder). A last line that a crash left without its end is cut off.
  /// `fs` must outlive the log. Throws an Error of kind io.
  JsonLines(FileSystem& fs, Path path);

  /// Adds one row. Doubles read back bitwise equal; those that are not finite become "nan", "inf" or "-inf".
  /// Throws an Error of kind io; the row is then not there.
  void append(const nlohmann::json& row);
  void flush();
  /// Bytes in the log: what a checkpoint remembers for `truncate_to`.
  uint64_t size() const { return size_; }
  /// Drops the rows from byte `bytes` on, durably. Throws an Error of kind data when the log is shorter, or no row
  /// ends there.
  void truncate_to(uint64_t bytes);
  /// Drops the first row that `belongs` refuses and all behind it, durably; gives those that stay.
  std::vector<nlohmann::json> keep_while(const std::function<bool(const nlohmann::json&)>& belongs);
  const Path& path() const { return path_; }

 private:
  FileSystem& fs_;
  Path path_;
  uint64_t size_ = 0;
  bool is_torn_ = false;  ///< a failed append may have left a part of its row
};

struct JsonLinesContent {
  std::vector<nlohmann::json> rows;
  bool is_torn = false;  ///< the last line has no end; it is not among the rows
};

/// Reads a log, also while it is being written. Throws an Error of kind data that names the line that is not JSON.
JsonLinesContent read_json_lines(FileSystem& fs, const Path& path);

}  // namespace collegium::io
