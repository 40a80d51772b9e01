#include "collegium/data/gutenberg.h"

#include <algorithm>
#include <array>
#include <vector>

namespace collegium::data {
namespace {

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

bool contains_word(std::string_view line, std::string_view lower) {
  return std::search(line.begin(), line.end(), lower.begin(), lower.end(),
                     [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; }) != line.end();
}

template <size_t N>
bool contains_any(std::string_view line, const std::array<std::string_view, N>& marks) {
  return std::any_of(marks.begin(), marks.end(), [&](auto mark) { return contains_word(line, mark); });
}

constexpr std::array<std::string_view, 5> kHeaderEnds = {"*** start of th", "***start of th", "*end*the small print",
                                                         "*end the small print", "*end* the small print"};
constexpr std::array<std::string_view, 5> kTrailers = {"*** end of th", "***end of th", "end of project gutenberg",
                                                       "end of the project gutenberg", "end of this project gutenberg"};
constexpr std::array<std::string_view, 6> kCredits = {"produced by",       "prepared by",
                                                      "transcribed by",    "scanned and proofread",
                                                      "project gutenberg", "distributed proofread"};

std::string_view trimmed_end(std::string_view line) {
  const auto last = line.find_last_not_of(" \t\r\x1a\f");
  return last == std::string_view::npos ? std::string_view{} : line.substr(0, last + 1);
}

// "And brought'st him thence        10" loses its number: three or more spaces set it apart from the verse.
std::string_view without_verse_number(std::string_view line) {
  const auto number = line.find_last_not_of("0123456789") + 1;
  if (number == 0 || number == line.size()) return line;
  const auto verse_end = line.find_last_not_of(' ', number - 1) + 1;
  return verse_end > 0 && number - verse_end >= 3 ? line.substr(0, verse_end) : line;
}

std::string_view without_dot_leader(std::string_view line) {
  const auto dots = std::min(line.find_first_not_of('.'), line.size());
  return dots >= 6 ? line.substr(dots) : line;
}

// The first line of the work: after the header and the credit paragraphs that follow it.
size_t find_work_begin(const std::vector<std::string_view>& lines) {
  size_t begin = 0;
  for (size_t i = 0; i < lines.size(); ++i)
    if (contains_any(lines[i], kHeaderEnds)) begin = i + 1;
  if (begin == 0) return 0;
  while (begin < lines.size()) {
    auto first = begin;
    while (first < lines.size() && trimmed_end(lines[first]).empty()) ++first;
    auto last = first;
    bool is_credit = false;
    for (; last < lines.size() && !trimmed_end(lines[last]).empty(); ++last)
      is_credit = is_credit || contains_any(lines[last], kCredits);
    if (!is_credit || last - first > 6) return first;  // a credit is short
    begin = last;
  }
  return begin;
}

}  // namespace

std::string clean_gutenberg(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  const auto lines = lines_of(text);
  std::string out;
  int blank = 0;
  for (auto i = find_work_begin(lines); i < lines.size(); ++i) {
    if (contains_any(lines[i], kTrailers)) break;
    const auto line = without_dot_leader(without_verse_number(trimmed_end(lines[i])));
    if (line.empty()) {
      ++blank;
      continue;
    }
    if (!out.empty()) out.append(static_cast<size_t>(std::min(blank, 2)), '\n');
    blank = 0;
    out += line;
    out += '\n';
  }
  return out;
}

std::string first_line(std::string_view text) {
  for (const auto line : lines_of(text)) {
    const auto end = trimmed_end(line);
    const auto begin = end.find_first_not_of(" \t");
    if (begin != std::string_view::npos) return std::string(end.substr(begin));
  }
  return {};
}

}  // namespace collegium::data
