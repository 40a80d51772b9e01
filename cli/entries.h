// Catalogue entries as people read them: what `list`, `show` and `docs mechanisms` print.
#pragma once
#include <optional>

#include "cli/command.h"
#include "collegium/base/catalogue.h"

namespace collegium::cli {

struct EntryFilter {
  std::string catalogue;  ///< "" = all
  std::optional<int> paper;
  std::string taxonomy;  ///< a part of the taxonomy place, any case; "" = all
};

/// The names of the catalogues, in the order of `entries`, each once.
std::vector<std::string> catalogues_of(const std::vector<EntryInfo>& entries);

/// The entries that the filter keeps. A usage Error for a catalogue that is not there, with the nearest.
std::vector<EntryInfo> filtered(const std::vector<EntryInfo>& entries, const EntryFilter& filter);

/// The entry called `name` or "catalogue/name". A usage Error when there is none (with the nearest), or several
/// (which lists them as "catalogue/name").
const EntryInfo& find_entry(const std::vector<EntryInfo>& entries, const std::string& name);

/// What to type for each of `entries`: its name, or "catalogue/name" where another one among `all` has the same name.
std::vector<std::string> names_to_type(const std::vector<EntryInfo>& entries, const std::vector<EntryInfo>& all);

/// A table: catalogue, name, paper, summary.
std::string entries_text(const std::vector<EntryInfo>& entries, const TableStyle& style);

/// Everything about one entry: equation, source, place, claims, and the table of its fields.
std::string entry_text(const EntryInfo& entry, const TableStyle& style);

/// A Markdown page of all entries, by catalogue.
std::string entries_markdown(const std::vector<EntryInfo>& entries);

/// {catalogue, name, paper, source, taxonomy, summary, equation, claims, fields}; with `fields` false without the last
/// two.
Json entry_json(const EntryInfo& entry, bool fields);

}  // namespace collegium::cli
