#include "collegium/base/text_table.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iomanip>
#include <sstream>

#include "collegium/base/error.h"

namespace collegium {
namespace {

struct TableGlyph {
  size_t bytes;
  size_t cells;
};

struct TableRange {
  uint32_t first, last;
};

// Blocks rather than the whole of Unicode's tables: enough for the scripts that names, prompts and tokens bring.
constexpr std::array<TableRange, 9> kCombining = {{{0x0300, 0x036f},
                                                   {0x0483, 0x0489},
                                                   {0x0591, 0x05bd},
                                                   {0x064b, 0x065f},
                                                   {0x0e34, 0x0e3a},
                                                   {0x1ab0, 0x1aff},
                                                   {0x200b, 0x200f},
                                                   {0x20d0, 0x20ff},
                                                   {0xfe00, 0xfe0f}}};
constexpr std::array<TableRange, 9> kDoubleWidth = {{{0x1100, 0x115f},
                                                     {0x2e80, 0x303e},
                                                     {0x3041, 0x4dbf},
                                                     {0x4e00, 0xa4cf},
                                                     {0xac00, 0xd7a3},
                                                     {0xf900, 0xfaff},
                                                     {0xff00, 0xff60},
                                                     {0x1f300, 0x1faff},
                                                     {0x20000, 0x3fffd}}};

template <size_t N>
bool in_ranges(uint32_t point, const std::array<TableRange, N>& ranges) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [point](const TableRange& r) { return point >= r.first && point <= r.last; });
}

// Length of a colour code such as "\x1b[31m" at the start of `rest`; 0 when there is none.
size_t color_code_length(std::string_view rest) {
  if (rest.size() < 2 || rest[0] != '\x1b' || rest[1] != '[') return 0;
  for (size_t i = 2; i < rest.size(); ++i)
    if (rest[i] >= '@' && rest[i] <= '~') return i + 1;
  return 0;
}

TableGlyph first_glyph(std::string_view rest) {
  if (const auto code = color_code_length(rest)) return {code, 0};
  const auto lead = static_cast<unsigned char>(rest[0]);
  if (lead < 0x80) return {1, lead < 0x20 || lead == 0x7f ? size_t{0} : size_t{1}};
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  if (length == 1 || length > rest.size()) return {1, 1};
  uint32_t point = lead & (0xffU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(rest[i]);
    if ((byte & 0xc0) != 0x80) return {1, 1};
    point = point << 6 | (byte & 0x3fU);
  }
  if (in_ranges(point, kCombining)) return {length, 0};
  return {length, in_ranges(point, kDoubleWidth) ? size_t{2} : size_t{1}};
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// Bytes of `utf8` that fill at most `width` cells.
size_t bytes_within(std::string_view utf8, size_t width) {
  size_t at = 0;
  for (size_t used = 0; at < utf8.size();) {
    const auto glyph = first_glyph(utf8.substr(at));
    if (used + glyph.cells > width) break;
    used += glyph.cells, at += glyph.bytes;
  }
  return at;
}

}  // namespace

size_t display_width(std::string_view utf8) {
  size_t cells = 0;
  while (!utf8.empty()) {
    const auto glyph = first_glyph(utf8);
    cells += glyph.cells;
    utf8.remove_prefix(glyph.bytes);
  }
  return cells;
}

std::string shorten(std::string_view utf8, size_t width, std::string_view ellipsis) {
  if (display_width(utf8) <= width) return std::string(utf8);
  const auto tail = display_width(ellipsis);
  if (tail > width) return std::string(utf8.substr(0, bytes_within(utf8, width)));
  return std::string(utf8.substr(0, bytes_within(utf8, width - tail))) + std::string(ellipsis);
}

std::vector<std::string> wrap_words(std::string_view utf8, size_t width) {
  width = std::max<size_t>(width, 2);  // a double-width letter must fit, or the loop below would not end
  std::vector<std::string> lines;
  std::string line;
  size_t at = 0;
  while (at < utf8.size()) {
    const auto start = utf8.find_first_not_of(' ', at);
    if (start == std::string_view::npos) break;
    const auto end = std::min(utf8.find(' ', start), utf8.size());
    auto word = utf8.substr(start, end - start);
    at = end;
    if (!line.empty() && display_width(line) + 1 + display_width(word) <= width) {
      line += ' ';
      line += word;
      continue;
    }
    if (!line.empty()) lines.push_back(std::exchange(line, {}));
    while (display_width(word) > width) {
      const auto part = bytes_within(word, width);
      lines.emplace_back(word.substr(0, part));
      word.remove_prefix(part);
    }
    line = word;
  }
  if (!line.empty() || lines.empty()) lines.push_back(line);
  return lines;
}

bool looks_numeric(std::string_view cell) {
  size_t i = 0;
  const auto at = [&](size_t j) { return j < cell.size() ? cell[j] : '\0'; };
  if (at(i) == '+' || at(i) == '-') ++i;
  if (!is_digit(at(i)) && !(at(i) == '.' && is_digit(at(i + 1)))) return false;
  while (is_digit(at(i)) || at(i) == '.' || at(i) == ',') ++i;
  if (at(i) == 'e' || at(i) == 'E') {
    const auto sign = at(i + 1) == '+' || at(i + 1) == '-' ? size_t{1} : size_t{0};
    if (is_digit(at(i + 1 + sign)))
      for (i += 1 + sign; is_digit(at(i));) ++i;
  }
  if (at(i) == ' ') ++i;
  const auto unit = cell.substr(std::min(i, cell.size()));
  return unit.size() <= 5 &&
         std::all_of(unit.begin(), unit.end(), [](char c) { return is_letter(c) || c == '%' || c == '/'; });
}

TextTable::TextTable(std::vector<std::string> header)
    : header_(std::move(header)), align_(header_.size(), Align::automatic) {}

void TextTable::align(size_t column, Align how) {
  ensure(column < align_.size(), "text table: no column ", column, " among ", align_.size());
  align_[column] = how;
}

void TextTable::row(std::vector<std::string> cells) {
  ensure(cells.size() <= header_.size(), "text table: ", cells.size(), " cells for ", header_.size(), " columns");
  cells.resize(header_.size());
  rows_.push_back(std::move(cells));
}

bool TextTable::is_right(size_t column) const {
  if (align_[column] != Align::automatic) return align_[column] == Align::right;
  bool any = false;
  for (const auto& row : rows_) {
    if (row[column].empty()) continue;
    if (!looks_numeric(row[column])) return false;
    any = true;
  }
  return any;
}

std::vector<size_t> TextTable::widths(const TableStyle& style) const {
  std::vector<size_t> out(header_.size());
  for (size_t c = 0; c < header_.size(); ++c) {
    out[c] = display_width(header_[c]);
    for (const auto& row : rows_) out[c] = std::max(out[c], display_width(row[c]));
  }
  if (style.width == 0) return out;
  // Take what is too wide from the widest columns of text, never below the header or 10 cells; words are cut only where
  // breaking between them is not enough.
  const auto longest_word = [&](size_t column) {
    size_t most = 0;
    for (const auto& row : rows_)
      for (size_t from = 0; from <= row[column].size();) {
        const auto to = std::min(row[column].find(' ', from), row[column].size());
        most = std::max(most, display_width(std::string_view(row[column]).substr(from, to - from)));
        from = to + 1;
      }
    return most;
  };
  for (const bool cuts_words : {false, true}) {
    std::vector<size_t> least(out.size());
    for (size_t c = 0; c < out.size(); ++c)
      least[c] = std::max({size_t{10}, display_width(header_[c]), cuts_words ? 0 : longest_word(c)});
    for (;;) {
      size_t total = 2 * (out.size() - std::min<size_t>(out.size(), 1));
      for (const auto w : out) total += w;
      if (total <= style.width) return out;
      size_t widest = out.size();
      for (size_t c = 0; c < out.size(); ++c) {
        if (is_right(c) || out[c] <= least[c]) continue;
        if (widest == out.size() || out[c] > out[widest]) widest = c;
      }
      if (widest == out.size()) break;
      --out[widest];
    }
  }
  return out;
}

std::string TextTable::render(const TableStyle& style) const {
  const auto width = widths(style);
  std::vector<bool> right(header_.size());
  for (size_t c = 0; c < header_.size(); ++c) right[c] = is_right(c);

  std::string out;
  const auto put = [&](const std::vector<std::string>& cells, bool bold) {
    std::vector<std::vector<std::string>> wrapped;
    size_t height = 1;
    for (size_t c = 0; c < cells.size(); ++c) {
      const bool fits = display_width(cells[c]) <= width[c];
      wrapped.push_back(fits ? std::vector<std::string>{cells[c]} : wrap_words(cells[c], width[c]));
      height = std::max(height, wrapped.back().size());
    }
    for (size_t h = 0; h < height; ++h) {
      std::string line;
      size_t pending = 0;  // spaces owed before the next visible cell, so that no line ends in spaces
      for (size_t c = 0; c < cells.size(); ++c) {
        const auto cell = h < wrapped[c].size() ? wrapped[c][h] : std::string();
        const auto room = width[c] - std::min(width[c], display_width(cell));
        if (right[c]) pending += room;
        if (!cell.empty()) {
          line.append(pending, ' ');
          line += bold && style.color ? "\x1b[1m" + cell + "\x1b[0m" : cell;
          pending = 0;
        }
        pending += (right[c] ? 0 : room) + 2;
      }
      out += line + "\n";
    }
  };
  put(header_, true);
  std::vector<std::string> rule;
  for (const auto w : width) {
    std::string dashes;
    for (size_t i = 0; i < w; ++i) dashes += style.unicode ? "─" : "-";
    rule.push_back(std::move(dashes));
  }
  put(rule, false);
  for (const auto& row : rows_) put(row, false);
  return out;
}

std::string fixed_text(double value, int digits) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value;
  return out.str();
}

std::string significant_text(double value, int digits) {
  std::ostringstream out;
  out << std::setprecision(digits) << value;
  return out.str();
}

}  // namespace collegium
