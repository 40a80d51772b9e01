#include "collegium/inspect/page.h"

#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "collegium/base/error.h"
#include "web/page_assets.h"

namespace collegium {
namespace {

using Parts = std::map<std::string_view, std::string_view>;

template <size_t N>
std::string_view asset_text(const unsigned char (&bytes)[N]) {
  return {reinterpret_cast<const char*>(bytes), N};
}

/// Fills {{name}} once, left to right: what a part brings in is never searched again.
std::string fill_page(std::string_view page, const Parts& parts) {
  std::string out;
  for (;;) {
    const auto open = page.find("{{");
    out += page.substr(0, open);
    if (open == std::string_view::npos) return out;
    const auto close = page.find("}}", open);
    ensure(close != std::string_view::npos, "web/page.html: {{ without }}");
    const auto part = parts.find(page.substr(open + 2, close - open - 2));
    ensure(part != parts.end(), "web/page.html: unknown part {{", page.substr(open + 2, close - open - 2), "}}");
    out += part->second;
    page.remove_prefix(close + 2);
  }
}

/// JSON that cannot end or confuse the script element around it: in JSON '<' stands only inside strings, so writing
/// each as an escape covers "</script" and "<!--" in any spelling.
std::string json_for_html(const nlohmann::json& data) {
  const auto plain = data.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::string out;
  out.reserve(plain.size() + plain.size() / 64);
  for (const char c : plain) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

/// The text at `key` with its UTF-8 repaired, or `otherwise`.
std::string title_text(const nlohmann::json& object, const char* key, const char* otherwise) {
  const auto at = object.find(key);
  if (at == object.end() || !at->is_string() || at->get_ref<const std::string&>().empty()) return otherwise;
  const auto quoted = at->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(quoted).get<std::string>();
}

void require_list(const nlohmann::json& data, const char* key, const char* page) {
  const auto at = data.find(key);
  if (at == data.end() || at->is_null() || at->is_array()) return;
  fail(ErrorKind::data, page, ": '", key, "' must be a list, got ", at->type_name());
}

std::string make_page(const nlohmann::json& data, std::string_view kind, std::string_view script,
                      const std::string& title) {
  const auto json = json_for_html(data);
  const auto safe_title = text_for_html(title);
  return fill_page(
      asset_text(web::kPage),
      {{"title", safe_title}, {"style", asset_text(web::kStyle)}, {"script", script}, {"data", json}, {"page", kind}});
}

}  // namespace

std::string text_for_html(std::string_view plain) {
  std::string out;
  for (const char c : plain) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

std::string report_page(const nlohmann::json& data) {
  if (!data.is_object()) fail(ErrorKind::data, "report page: the data must be an object, got ", data.type_name());
  require_list(data, "metrics", "report page");
  require_list(data, "timing", "report page");
  auto run = data.value("run", nlohmann::json());
  if (!run.is_object()) run = nlohmann::json::object();
  return make_page(data, "reportPage", asset_text(web::kReportScript), title_text(run, "name", "Training run"));
}

std::string compare_page(const nlohmann::json& data) {
  if (!data.is_object()) fail(ErrorKind::data, "compare page: the data must be an object, got ", data.type_name());
  require_list(data, "groups", "compare page");
  return make_page(data, "comparePage", asset_text(web::kCompareScript),
                   title_text(data, "title", "Comparison of runs"));
}

std::string inspect_page(const nlohmann::json& data) {
  if (!data.is_object()) fail(ErrorKind::data, "inspect page: the data must be an object, got ", data.type_name());
  require_list(data, "layers", "inspect page");
  return make_page(data, "inspectPage", asset_text(web::kInspectScript), title_text(data, "title", "Routing"));
}

}  // namespace collegium
