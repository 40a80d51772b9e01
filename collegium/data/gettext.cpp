#include "collegium/data/gettext.h"

#include <cctype>
#include <cstdio>
#include <utility>

#include "collegium/base/error.h"

namespace collegium::data {
namespace {

struct CatalogueEntry {
  std::string id, translation;
  bool has_id = false, has_translation = false, has_context = false, has_plural = false, is_fuzzy = false;
  int64_t line = 0;  // of the msgid
};

// What decides whether two messages are the same for a split: letters and digits, in lower case.
std::string message_key(std::string_view message) {
  std::string out;
  bool has_letter = false;
  for (const char c : message) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 && !std::isalnum(byte)) continue;
    has_letter = has_letter || byte >= 0x80 || std::isalpha(byte);
    out += byte < 0x80 ? static_cast<char>(std::tolower(byte)) : c;
  }
  return has_letter ? out : "";
}

class CatalogueReader {
 public:
  CatalogueReader(std::string_view language, std::string_view name) : language_(language), name_(name) {}

  void read_line(std::string_view line) {
    ++line_;
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.front()))) line.remove_prefix(1);
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.remove_suffix(1);
    if (line.starts_with("#~") || line.starts_with("#|")) return;  // obsolete entries, earlier wordings
    if (line.empty() || line[0] == '#') {
      if (line.empty() || entry_.has_translation) flush();
      if (line.starts_with("#,")) entry_.is_fuzzy = entry_.is_fuzzy || line.find("fuzzy") != std::string_view::npos;
    } else if (line[0] == '"') {
      if (!open_) fail_line("a text without a keyword before it");
      *open_ += unquoted(line);
    } else {
      read_keyword(line);
    }
  }

  std::vector<Document> finish() {
    flush();
    return std::move(documents_);
  }

 private:
  [[noreturn]] void fail_line(std::string_view problem) const {
    fail(ErrorKind::data, name_, ":", line_, ": not a gettext catalogue: ", problem);
  }

  void read_keyword(std::string_view line) {
    const auto end = line.find_first_of(" \t\"");
    if (end == std::string_view::npos || line.back() != '"') fail_line("a keyword and a quoted text were wanted");
    const auto keyword = line.substr(0, end);
    const auto quoted = unquoted(line.substr(line.find('"')));
    if (keyword == "msgctxt" || keyword == "msgid") {
      if (entry_.has_translation) flush();
      if (entry_.has_id) fail_line("a message without a translation before it");
    }
    if (keyword == "msgctxt") {
      entry_.has_context = true, open_ = &ignored_;
    } else if (keyword == "msgid") {
      entry_.has_id = true, entry_.line = line_, open_ = &entry_.id;
    } else if (keyword == "msgid_plural") {
      entry_.has_plural = true, open_ = &ignored_;
    } else if (keyword == "msgstr" || keyword.starts_with("msgstr[")) {
      if (!entry_.has_id) fail_line("a translation without its message");
      entry_.has_translation = true, open_ = keyword == "msgstr" ? &entry_.translation : &ignored_;
    } else {
      fail_line(text("unknown keyword '", keyword, "'"));
    }
    *open_ = quoted;
  }

  // What stands between the quotes, escapes resolved.
  std::string unquoted(std::string_view quoted) const {
    if (quoted.size() < 2 || quoted.back() != '"') fail_line("a quote is not closed");
    quoted = quoted.substr(1, quoted.size() - 2);
    std::string out;
    for (size_t i = 0; i < quoted.size(); ++i) {
      if (quoted[i] == '"') fail_line("a quote inside a text");
      if (quoted[i] != '\\') {
        out += quoted[i];
        continue;
      }
      if (++i == quoted.size()) fail_line("an escape without its letter");
      switch (quoted[i]) {
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
          out += '\r';
          break;
        case '"':
        case '\\':
          out += quoted[i];
          break;
        default:
          fail_line(text("unknown escape '\\", quoted[i], "'"));
      }
    }
    return out;
  }

  void flush() {
    const auto entry = std::exchange(entry_, {});
    open_ = nullptr;
    if (entry.has_id && !entry.has_translation) fail_line("a message without a translation");
    const bool is_plain = !entry.has_context && !entry.has_plural && !entry.is_fuzzy;
    if (!is_plain || entry.id.empty() || entry.translation.empty() || entry.id == entry.translation) return;
    if (entry.id.size() > kLongestMessage || entry.translation.size() > kLongestMessage) return;
    const auto key = message_key(entry.id);
    if (key.empty()) return;
    char number[24];
    std::snprintf(number, sizeof number, "%06lld", static_cast<long long>(entry.line));
    const auto instruction = text(language_, ": "), prompt = text(instruction, entry.id, "\n");
    documents_.push_back({.id = text(language_, "/", number),
                          .title = entry.id,
                          .language = std::string(language_),
                          .text = prompt + entry.translation,
                          .group = key,
                          .n_prompt_bytes = static_cast<int64_t>(prompt.size()),
                          .n_instruction_bytes = static_cast<int64_t>(instruction.size())});
  }

  std::string_view language_, name_;
  int64_t line_ = 0;
  CatalogueEntry entry_;
  std::string ignored_, *open_ = nullptr;
  std::vector<Document> documents_;
};

}  // namespace

std::vector<Document> read_gettext(std::string_view catalogue, std::string_view language, std::string_view name) {
  CatalogueReader reader(language, name);
  for (size_t at = 0; at < catalogue.size();) {
    const auto end = std::min(catalogue.find('\n', at), catalogue.size());
    reader.read_line(catalogue.substr(at, end - at));
    at = end + 1;
  }
  return reader.finish();
}

}  // namespace collegium::data
