// JSON at the edges: strict reading, exact writing, and the way between JSON and configuration tables.
#pragma once
#include <nlohmann/json.hpp>

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/value.h"

namespace collegium::io {

/// Bounds that a document must keep, so that a hostile one cannot eat the stack or the memory.
struct JsonLimits {
  size_t depth = 64;                                          ///< objects and lists within one another
  size_t list_elements = std::numeric_limits<size_t>::max();  ///< elements of one list
};

/// A document and the keys of its outermost object in the order in which they were written.
struct JsonDocument {
  nlohmann::json root;
  std::vector<std::string> keys;
};

/// Reads one JSON text (RFC 8259). Stricter than the library: a key given twice, a zero byte, or text beyond the
/// limits is refused. `what` stands first in errors, usually the file. Throws an Error of kind data.
JsonDocument parse_document(std::string_view json_text, std::string_view what, const JsonLimits& limits = {});

/// The same without the order of keys.
nlohmann::json parse_json(std::string_view json_text, std::string_view what, const JsonLimits& limits = {});

/// JSON text in which doubles read back bitwise equal. JSON has no word for what is not finite: "nan", "inf" and
/// "-inf" are written as strings, which `number_from` reads. indent < 0: one line.
/// Throws a usage Error when a string is not UTF-8.
std::string dump_json(const nlohmann::json& value, int indent = -1);

/// A number, or one of the strings that dump_json writes in its place. Throws an Error of kind data.
double number_from(const nlohmann::json& value);

/// Text from a file as a message may show it: control characters and bytes beyond ASCII that are not UTF-8 become
/// '?', and at most `limit` bytes are kept, with "..." behind them.
std::string printable(std::string_view from_file, size_t limit = 120);

/// A configuration value as JSON, and back: from_json(to_json(v)) == v, integers and floats kept apart. A float
/// that is not finite becomes {"$float": "inf"}, since here a string would come back as a string.
nlohmann::json to_json(const Value& value);

/// Throws an Error of kind data for null, for an integer beyond int64, and below 64 levels.
Value from_json(const nlohmann::json& value);

}  // namespace collegium::io
