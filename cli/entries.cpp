#include "cli/entries.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

std::string lowered(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

std::string range_text(const FieldInfo& field) {
  if (!field.choices.empty()) return join(field.choices, " | ");
  if (std::isfinite(field.min) && std::isfinite(field.max)) return text(field.min, " to ", field.max);
  if (std::isfinite(field.min)) return text(">= ", field.min);
  if (std::isfinite(field.max)) return text("<= ", field.max);
  return field.catalogue.empty() ? std::string() : text("one of the ", field.catalogue);
}

struct FlatField {
  std::string name;
  const FieldInfo* field;
};

// Children of nested tables become "outer.inner"; the table itself is no field that anyone sets.
void flatten(const std::vector<FieldInfo>& fields, const std::string& prefix, std::vector<FlatField>& out) {
  for (const auto& field : fields) {
    if (field.children.empty())
      out.push_back({prefix + field.name, &field});
    else
      flatten(field.children, prefix + field.name + ".", out);
  }
}

std::vector<FlatField> flat_fields(const EntryInfo& entry) {
  std::vector<FlatField> out;
  flatten(entry.fields, "", out);
  return out;
}

constexpr size_t kValueColumn = 12;  // where values stand behind their labels

std::string labelled(const TableStyle& style, std::string_view label, const std::vector<std::string>& lines) {
  auto out = text(style.color ? "\x1b[2m" : "", label, style.color ? "\x1b[0m" : "",
                  std::string(kValueColumn - std::min(kValueColumn - 1, label.size()), ' '));
  for (size_t i = 0; i < lines.size(); ++i) out += (i == 0 ? "" : std::string(kValueColumn, ' ')) + lines[i] + "\n";
  return out;
}

// Cells for a value; 0 = as many as it takes.
size_t value_width(const TableStyle& style) {
  return style.width == 0 ? 0 : std::max<size_t>(style.width, kValueColumn + 10) - kValueColumn;
}

std::string labelled(const TableStyle& style, std::string_view label, const std::string& value) {
  if (value.empty()) return {};
  const auto width = value_width(style);
  return labelled(style, label, width == 0 ? std::vector<std::string>{value} : wrap_words(value, width));
}

// Lines of an equation that are too long break between its formulas, which two spaces part, and only then at words;
// what goes on is indented.
std::vector<std::string> equation_lines(const std::string& equation, size_t width) {
  std::vector<std::string> out;
  std::istringstream lines(equation);
  for (std::string whole; std::getline(lines, whole);) {
    if (width == 0 || display_width(whole) <= width) {
      out.push_back(whole);
      continue;
    }
    std::string line;
    for (size_t at = 0; at < whole.size();) {
      const auto end = std::min(whole.find("  ", at), whole.size());
      const auto formula = whole.substr(at, end - at);
      at = end + 2;
      if (!line.empty() && display_width(line) + 2 + display_width(formula) <= width) {
        line += "  " + formula;
        continue;
      }
      const bool is_whole = line.empty() && display_width(formula) <= width;
      for (const auto& part : wrap_words(formula, is_whole ? width : width - 2)) {
        if (!line.empty()) out.push_back(line);
        line = (line.empty() ? "" : "  ") + part;
      }
    }
    out.push_back(line);
  }
  return out;
}

std::string markdown_cell(std::string_view what) {
  std::string out;
  for (const char c : what) out += c == '|' ? std::string("\\|") : std::string(1, c == '\n' ? ' ' : c);
  return out;
}

Json field_json(const FieldInfo& field) {
  Json out = {{"name", field.name}, {"type", field.type}, {"default", field.default_text}, {"help", field.help}};
  if (!field.unit.empty()) out["unit"] = field.unit;
  if (std::isfinite(field.min)) out["min"] = field.min;
  if (std::isfinite(field.max)) out["max"] = field.max;
  if (!field.choices.empty()) out["choices"] = field.choices;
  if (!field.catalogue.empty()) out["catalogue"] = field.catalogue;
  for (const auto& child : field.children) out["children"].push_back(field_json(child));
  return out;
}

}  // namespace

std::vector<std::string> catalogues_of(const std::vector<EntryInfo>& entries) {
  std::vector<std::string> out;
  for (const auto& entry : entries)
    if (std::find(out.begin(), out.end(), entry.catalogue) == out.end()) out.push_back(entry.catalogue);
  return out;
}

std::vector<EntryInfo> filtered(const std::vector<EntryInfo>& entries, const EntryFilter& filter) {
  const auto known = catalogues_of(entries);
  if (!filter.catalogue.empty() && std::find(known.begin(), known.end(), filter.catalogue) == known.end()) {
    const auto near = nearest(filter.catalogue, known);
    throw Error(ErrorKind::usage, text("unknown catalogue '", filter.catalogue, "' (known: ", join(known), ")"),
                near.empty() ? std::string() : text("did you mean '", near, "'?"));
  }
  std::vector<EntryInfo> out;
  for (const auto& entry : entries) {
    if (!filter.catalogue.empty() && entry.catalogue != filter.catalogue) continue;
    if (filter.paper && entry.paper != *filter.paper) continue;
    if (lowered(entry.taxonomy).find(lowered(filter.taxonomy)) == std::string::npos) continue;
    out.push_back(entry);
  }
  return out;
}

const EntryInfo& find_entry(const std::vector<EntryInfo>& entries, const std::string& name) {
  std::vector<const EntryInfo*> found;
  std::vector<std::string> names;
  for (const auto& entry : entries) {
    if (name == entry.name || name == entry.catalogue + "/" + entry.name) found.push_back(&entry);
    names.push_back(entry.name);
    names.push_back(entry.catalogue + "/" + entry.name);
  }
  if (found.size() == 1) return *found.front();
  if (found.empty()) {
    const auto near = nearest(name, names);
    throw Error(ErrorKind::usage, text("no mechanism is called '", name, "'"),
                near.empty() ? "'collegium list' shows all of them" : text("did you mean '", near, "'?"));
  }
  std::vector<std::string> full;
  for (const auto* entry : found) full.push_back(entry->catalogue + "/" + entry->name);
  throw Error(ErrorKind::usage, text("'", name, "' stands in ", found.size(), " catalogues"),
              text("say which: ", join(full)));
}

std::vector<std::string> names_to_type(const std::vector<EntryInfo>& entries, const std::vector<EntryInfo>& all) {
  std::vector<std::string> out;
  for (const auto& entry : entries) {
    const auto n_sharing =
        std::count_if(all.begin(), all.end(), [&](const EntryInfo& other) { return other.name == entry.name; });
    out.push_back(n_sharing > 1 ? entry.catalogue + "/" + entry.name : entry.name);
  }
  return out;
}

std::string entries_text(const std::vector<EntryInfo>& entries, const TableStyle& style) {
  TextTable table({"catalogue", "name", "paper", "summary"});
  table.align(2, Align::right);
  for (const auto& entry : entries)
    table.row({entry.catalogue, entry.name, entry.paper > 0 ? text(entry.paper) : "", entry.summary});
  return table.render(style);
}

std::string entry_text(const EntryInfo& entry, const TableStyle& style) {
  auto out = text(style.color ? "\x1b[1m" : "", entry.catalogue, "/", entry.name, style.color ? "\x1b[0m" : "", "\n\n");
  out += labelled(style, "summary", entry.summary);
  if (!entry.equation.empty()) out += labelled(style, "equation", equation_lines(entry.equation, value_width(style)));
  out += labelled(style, "paper", entry.paper > 0 ? text("number ", entry.paper) : "none of the catalogue's own");
  out += labelled(style, "source", entry.source);
  out += labelled(style, "taxonomy", entry.taxonomy);
  for (const auto& [claim, value] : entry.claims)
    out += labelled(style, &claim == &entry.claims.front().first ? "claims" : "", text(claim, ": ", value));
  const auto fields = flat_fields(entry);
  if (fields.empty()) return out + "\nIt has no fields.\n";
  TextTable table({"field", "type", "default", "unit", "allowed", "meaning"});
  table.align(2, Align::left);
  for (const auto& [name, field] : fields)
    table.row({name, field->type, field->default_text, field->unit, range_text(*field), field->help});
  return out + "\n" + table.render(style);
}

std::string entries_markdown(const std::vector<EntryInfo>& entries) {
  std::string out = "# Mechanisms\n\nWritten by `collegium docs mechanisms` from the catalogue entries; do not edit.\n";
  for (const auto& catalogue : catalogues_of(entries)) {
    out += "\n## " + catalogue + "\n";
    for (const auto& entry : entries) {
      if (entry.catalogue != catalogue) continue;
      out += text("\n### ", entry.name, "\n\n", entry.summary, "\n\n");
      if (!entry.equation.empty()) out += text("```\n", entry.equation, "\n```\n\n");
      if (entry.paper > 0) out += text("- Paper: number ", entry.paper, "\n");
      out += text("- Source: ", entry.source, "\n- Taxonomy: ", entry.taxonomy, "\n");
      for (const auto& [claim, value] : entry.claims) out += text("- Claim: ", claim, ": ", value, "\n");
      const auto fields = flat_fields(entry);
      if (fields.empty()) continue;
      out += "\n| Field | Type | Default | Unit | Allowed | Meaning |\n| --- | --- | --- | --- | --- | --- |\n";
      for (const auto& [name, field] : fields)
        out += text("| `", name, "` | ", field->type, " | ",
                    field->default_text.empty() ? "" : text("`", markdown_cell(field->default_text), "`"), " | ",
                    markdown_cell(field->unit), " | ", markdown_cell(range_text(*field)), " | ",
                    markdown_cell(field->help), " |\n");
    }
  }
  return out;
}

Json entry_json(const EntryInfo& entry, bool fields) {
  Json out = {{"catalogue", entry.catalogue}, {"name", entry.name},         {"paper", entry.paper},
              {"source", entry.source},       {"taxonomy", entry.taxonomy}, {"summary", entry.summary},
              {"equation", entry.equation}};
  if (!fields) return out;
  out["claims"] = Json::object();
  for (const auto& [claim, value] : entry.claims) out["claims"][claim] = value;
  out["fields"] = Json::array();
  for (const auto& field : entry.fields) out["fields"].push_back(field_json(field));
  return out;
}

}  // namespace collegium::cli
