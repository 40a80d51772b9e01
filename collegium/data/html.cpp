#include "collegium/data/html.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "collegium/data/utf8.h"

namespace collegium::data {
namespace {

struct HtmlEntity {
  std::string_view name, text;
};
constexpr std::array<HtmlEntity, 6> kEntities = {
    {{"amp", "&"}, {"lt", "<"}, {"gt", ">"}, {"quot", "\""}, {"apos", "'"}, {"nbsp", "\xc2\xa0"}}};

bool is_html_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f';
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string lowercase(std::string_view word) {
  std::string out(word);
  for (auto& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

// The text of one entity without & and ;, or "" when it is none.
std::string entity_text(std::string_view name) {
  if (name.size() > 1 && name[0] == '#') {
    const bool is_hex = name[1] == 'x' || name[1] == 'X';
    const auto digits = name.substr(is_hex ? 2 : 1);
    uint32_t code_point = 0;
    const auto [end, code] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code_point, is_hex ? 16 : 10);
    if (digits.empty() || end != digits.data() + digits.size() || code != std::errc{}) return {};
    return utf8_of(code_point);
  }
  for (const auto& entity : kEntities)
    if (entity.name == name) return std::string(entity.text);
  return {};
}

std::map<std::string, std::string> read_attributes(std::string_view inside) {
  std::map<std::string, std::string> out;
  size_t at = 0;
  const auto skip = [&] {
    while (at < inside.size() && is_html_space(inside[at])) ++at;
  };
  while (true) {
    skip();
    const auto begin = at;
    while (at < inside.size() && inside[at] != '=' && !is_html_space(inside[at])) ++at;
    if (at == begin) return out;
    const auto name = lowercase(inside.substr(begin, at - begin));
    skip();
    if (at >= inside.size() || inside[at] != '=') {
      out[name] = "";
      continue;
    }
    ++at;
    skip();
    if (at < inside.size() && (inside[at] == '"' || inside[at] == '\'')) {
      const auto quote = inside[at++];
      const auto end = std::min(inside.find(quote, at), inside.size());
      out[name] = decode_entities(inside.substr(at, end - at));
      at = std::min(end + 1, inside.size());
      continue;
    }
    const auto value = at;
    while (at < inside.size() && !is_html_space(inside[at])) ++at;
    out[name] = decode_entities(inside.substr(value, at - value));
  }
}

// Collects body text: white space collapses, blocks end lines.
class HtmlText {
 public:
  void add(std::string_view piece) {
    for (const char c : piece) {
      if (is_html_space(c)) {
        space_ = !line_.empty();
        continue;
      }
      if (space_) line_ += ' ';
      space_ = false;
      line_ += c;
    }
  }
  void end_line() {
    space_ = false;
    if (line_.empty()) return;
    out_ += decode_entities(line_) + "\n";
    line_.clear();
  }
  void blank_line() {
    end_line();
    if (!out_.empty() && !out_.ends_with("\n\n")) out_ += "\n";
  }
  std::string take() {
    end_line();
    while (out_.ends_with("\n\n")) out_.pop_back();
    return std::move(out_);
  }

 private:
  std::string out_, line_;
  bool space_ = false;
};

}  // namespace

std::string decode_entities(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const auto end = text[at] == '&' ? text.find(';', at) : std::string_view::npos;
    if (end == std::string_view::npos || end - at > 12) {
      out += text[at++];
      continue;
    }
    const auto decoded = entity_text(text.substr(at + 1, end - at - 1));
    if (decoded.empty()) {
      out += text[at++];
      continue;
    }
    out += decoded;
    at = end + 1;
  }
  return out;
}

HtmlPage read_html(std::string_view page) {
  HtmlPage out;
  HtmlText body, title;
  bool in_title = false, in_head = false;
  for (size_t at = 0; at < page.size();) {
    if (page[at] != '<') {
      const auto end = std::min(page.find('<', at), page.size());
      const auto piece = page.substr(at, end - at);
      if (in_title)
        title.add(piece);
      else if (!in_head)
        body.add(piece);
      at = end;
      continue;
    }
    const bool is_comment = page.substr(at, 4) == "<!--";
    const auto end = is_comment ? page.find("-->", at) : page.find('>', at);
    if (end == std::string_view::npos) break;
    const auto inside = page.substr(at + 1, end - at - 1);
    at = end + (is_comment ? 3 : 1);
    if (is_comment || inside.empty() || inside[0] == '!' || inside[0] == '?') continue;

    const bool closes = inside[0] == '/';
    const auto name_begin = static_cast<size_t>(closes);
    const auto name_end = std::min(inside.find_first_of(" \t\r\n/", name_begin), inside.size());
    const auto name = lowercase(inside.substr(name_begin, name_end - name_begin));
    if (is_one_of(name, {"script", "style"}) && !closes) {  // what is inside may look like tags
      at = std::min(page.find("</" + name, at), page.size());
      continue;
    }
    if (name == "head") in_head = !closes;
    if (name == "title") in_title = !closes;
    if (name == "html" && !closes) out.html = read_attributes(inside.substr(name_end));
    if (is_one_of(name, {"p", "li", "br", "div", "ol", "ul", "tr", "header", "body"})) body.end_line();
    if (is_one_of(name, {"h1", "h2", "h3", "h4", "h5", "h6", "article", "section"}))
      closes ? body.end_line() : body.blank_line();
  }
  out.title = title.take();
  while (out.title.ends_with('\n')) out.title.pop_back();
  out.text = body.take();
  return out;
}

}  // namespace collegium::data
