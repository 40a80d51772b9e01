// HTML to plain text: enough for well-formed pages of headings, paragraphs and lists.
#pragma once
#include <map>
#include <string>
#include <string_view>

namespace collegium::data {

struct HtmlPage {
  std::string title;                        ///< of <title>
  std::map<std::string, std::string> html;  ///< attributes of <html>, entities decoded
  std::string text;                         ///< of <body>: a line a paragraph, a blank line before a heading
};

/// `page` is UTF-8. Head, scripts, styles and comments are dropped, white space collapses as a browser would show
/// it, entities are decoded; an unknown named entity stays as written.
HtmlPage read_html(std::string_view page);

/// `text` with &amp; &lt; &gt; &quot; &apos; &nbsp; and numeric entities decoded.
std::string decode_entities(std::string_view text);

}  // namespace collegium::data
