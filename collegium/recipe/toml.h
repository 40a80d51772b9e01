// TOML at the edge: the only file of the project that knows the format's parser.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include "collegium/base/value.h"

namespace collegium {

/// Reads a TOML file; each value remembers file and line. `shown` is the name in errors (default: the path).
/// Throws an Error of kind usage for a missing file (with the nearest name) or for text that is not TOML (with line
/// and column), of kind io when it cannot be read.
Table read_toml(const std::filesystem::path& path, std::string shown = {});

/// The same from text.
Table parse_toml(std::string_view toml, const std::string& shown);

/// Applies one "a.b=value" to `root`. The value is read as TOML; what is not TOML is taken as a string, so that
/// router=switch needs no quotes. Setting a component that is a table to a plain name replaces it.
void apply_set(Table& root, std::string_view assignment);

}  // namespace collegium
