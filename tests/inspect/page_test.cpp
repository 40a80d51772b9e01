#include "collegium/inspect/page.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "collegium/base/error.h"

using namespace collegium;
using nlohmann::json;

namespace {

constexpr std::string_view kDataOpen = "<script type=\"application/json\" id=\"data\">";

/// The JSON text as a browser would cut it out: up to the first end tag.
std::string embedded_data(const std::string& page) {
  const auto open = page.find(kDataOpen);
  REQUIRE(open != std::string::npos);
  const auto from = open + kDataOpen.size();
  return page.substr(from, page.find("</script", from) - from);
}

size_t times_found(std::string_view where, std::string_view what) {
  size_t n = 0;
  for (auto at = where.find(what); at != std::string_view::npos; at = where.find(what, at + what.size())) ++n;
  return n;
}

json small_report() {
  return {{"run", {{"name", "tiny"}, {"valid_bpb", 1.5}}},
          {"metrics", {{{"kind", "train"}, {"step", 1}, {"bpb", 2.0}}}},
          {"timing", json::array()}};
}

}  // namespace

TEST_CASE("the data of a page reads back as it went in") {
  const auto data = small_report();
  CHECK(json::parse(embedded_data(report_page(data))) == data);
  const json comparison = {{"title", "a against b"}, {"groups", json::array()}};
  CHECK(json::parse(embedded_data(compare_page(comparison))) == comparison);
}

TEST_CASE("each page builds its own kind") {
  CHECK(times_found(report_page(small_report()), "show(reportPage);") == 1);
  CHECK(times_found(compare_page({{"title", "t"}}), "show(comparePage);") == 1);
  CHECK(times_found(inspect_page({{"title", "t"}}), "show(inspectPage);") == 1);
}

TEST_CASE("no text in the data ends the script element or the title") {
  auto data = small_report();
  const std::string nasty = "</script><!-- <script> </SCRIPT> </title> & {{data}} {{nothing}}";
  data["run"]["name"] = nasty;
  data["notes"] = {nasty, "]]>"};
  data["sample"]["tokens"] = {"</", "script>", "<!", "--"};
  const auto page = report_page(data);
  const auto inside = embedded_data(page);
  CHECK(inside.find('<') == std::string::npos);
  CHECK(json::parse(inside) == data);
  CHECK(times_found(page, "</script") == 2);
  CHECK(times_found(page, "</title") == 1);
  CHECK(times_found(page, "<title>&lt;/script>&lt;!-- &lt;script> ") == 1);
}

TEST_CASE("broken UTF-8 becomes replacement characters, in the data and in the title") {
  auto data = small_report();
  data["run"]["name"] =
      "a\xff"
      "b";
  data["notes"] = {"\xe2\x82"};
  const auto page = report_page(data);
  const auto back = json::parse(embedded_data(page));
  CHECK(back["run"]["name"] ==
        "a\xef\xbf\xbd"
        "b");
  CHECK(back["notes"][0] == "\xef\xbf\xbd");
  CHECK(times_found(page,
                    "<title>a\xef\xbf\xbd"
                    "b</title>") == 1);
}

TEST_CASE("numbers that are not finite become null") {
  auto data = small_report();
  data["metrics"][0]["bpb"] = std::numeric_limits<double>::quiet_NaN();
  CHECK(json::parse(embedded_data(report_page(data)))["metrics"][0]["bpb"].is_null());
}

TEST_CASE("an empty object is enough, and gets a title") {
  CHECK(times_found(report_page(json::object()), "<title>Training run</title>") == 1);
  CHECK(times_found(compare_page(json::object()), "<title>Comparison of runs</title>") == 1);
  CHECK(times_found(report_page({{"run", nullptr}, {"metrics", nullptr}}), "<title>Training run</title>") == 1);
}

TEST_CASE("data of the wrong shape is refused by name") {
  CHECK_THROWS_WITH_AS(report_page(json::array()), "report page: the data must be an object, got array", Error);
  CHECK_THROWS_WITH_AS(report_page({{"metrics", 3}}), "report page: 'metrics' must be a list, got number", Error);
  CHECK_THROWS_WITH_AS(compare_page({{"groups", "a"}}), "compare page: 'groups' must be a list, got string", Error);
}

TEST_CASE("a page without data stays below 100 kB and names no address on a network") {
  for (const auto& page : {report_page(json::object()), compare_page(json::object())}) {
    CHECK(page.size() < 100'000);
    CHECK(page.size() > 20'000);
    CHECK(page.find("://") == std::string::npos);
    CHECK(page.find("{{") == std::string::npos);
  }
}

// Not a check of its own: makes the pages that tests/python/test_pages.py opens in a browser. For each
// <name>.json in the folder COLLEGIUM_PAGES it writes <name>.html.
TEST_CASE("pages for the browser tests") {
  const char* folder = std::getenv("COLLEGIUM_PAGES");
  if (!folder) return;
  size_t made = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".json") continue;
    std::ifstream in(file.path());
    const auto data = json::parse(in);
    const auto name = file.path().stem().string();
    const auto make = name.starts_with("compare")   ? compare_page
                      : name.starts_with("inspect") ? inspect_page
                                                    : report_page;
    auto out = file.path();
    std::ofstream(out.replace_extension(".html")) << make(data);
    ++made;
  }
  CHECK(made > 0);
}
