#include "cli/bench/picture.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <map>
#include <sstream>

#include "collegium/base/error.h"
#include "collegium/base/text_table.h"
#include "collegium/inspect/page.h"

namespace collegium::cli {
namespace {

constexpr double kPictureWidth = 1120, kPlotStart = 330, kPlotEnd = 900, kAsideEnd = 1104, kBarHeight = 13, kRowGap = 9;

// Paired for both settings; the bars' colours are told apart without red and green, too.
constexpr std::string_view kStyle = R"(
.bench{--paper:#fcfcfa;--ink:#1d1f23;--soft:#585d65;--grid:#e3e2dc;--c0:#1f5fa8;--c1:#c4601d;--c2:#3d8a5f;--c3:#7b3f98;
--c4:#a98207;--c5:#a8325f;font-family:system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
@media screen and (prefers-color-scheme:dark){.bench{--paper:#16181c;--ink:#e4e4e0;--soft:#a3a8b0;--grid:#34383f;--c0:#6ea8e6;
--c1:#f2a066;--c2:#6cc79a;--c3:#c79ae3;--c4:#d9bd5a;--c5:#f08fb1}}
.bench svg,svg.bench{font-size:12px}
.bench text{fill:var(--ink)}.bench .soft{fill:var(--soft)}.bench .title{font-size:15px;font-weight:600}
.bench .small{font-size:11px}.bench .paper{fill:var(--paper)}
.bench .grid{stroke:var(--grid);fill:none}.bench .one{stroke:var(--ink);fill:none}
.bench .c0{fill:var(--c0)}.bench .c1{fill:var(--c1)}.bench .c2{fill:var(--c2)}.bench .c3{fill:var(--c3)}
.bench .c4{fill:var(--c4)}.bench .c5{fill:var(--c5)}
)";

constexpr std::string_view kPageStyle = R"(
html{color-scheme:light dark}body{margin:0;background:var(--paper);color:var(--ink);line-height:1.5}
main{max-width:1160px;margin:0 auto;padding:24px 20px 56px}h1{margin:0 0 4px;font-size:26px}h2{margin:40px 0 4px;font-size:18px}
p{margin:0 0 8px;color:var(--soft);max-width:90ch}svg{display:block;width:100%;height:auto}
details{margin-top:6px}summary{cursor:pointer;color:var(--soft)}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin-top:6px}
th,td{padding:3px 10px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--soft);font-weight:600}th.word,td.word{text-align:left}
)";

using Colours = std::map<std::string, size_t>;

// One colour a contender, the same in all sections, in the order in which they appear.
Colours colours_of(const BenchDocument& document) {
  Colours out;
  for (const auto& section : document.sections)
    for (const auto& row : section.rows)
      for (const auto& bar : row.bars) out.try_emplace(bar.who, out.size() % 6);
  return out;
}

bool has_picture(const BenchSection& section) {
  return std::any_of(section.rows.begin(), section.rows.end(), [](const BenchRow& row) { return !row.bars.empty(); });
}

double row_height(const BenchRow& row) {
  return kBarHeight * static_cast<double>(std::max<size_t>(1, row.bars.size())) + kRowGap;
}

// Where a value stands, and the marks of the axis.
struct Axis {
  bool is_ratio;
  double first = 0, last = 1, step = 1;  // of ratios: powers of two

  explicit Axis(const BenchSection& section) : is_ratio(section.unit.empty()) {
    double low = is_ratio ? 1 : 0, high = is_ratio ? 2 : 0;
    for (const auto& row : section.rows)
      for (const auto& bar : row.bars) low = std::min(low, bar.value.low), high = std::max(high, bar.value.high);
    if (is_ratio) {
      first = std::floor(std::log2(std::max(low, 1e-3))), last = std::ceil(std::log2(high));
      return;
    }
    step = std::pow(10, std::floor(std::log10(std::max(high, 1e-9))));
    if (high / step < 2)
      step /= 5;
    else if (high / step < 5)
      step /= 2;
    last = step * std::ceil(high / step);
  }
  double x(double value) const {
    const double at = is_ratio ? std::log2(std::max(value, 1e-3)) : value;
    return kPlotStart + (at - first) / (last - first) * (kPlotEnd - kPlotStart);
  }
  double origin() const { return x(is_ratio ? 1 : 0); }
  std::vector<std::pair<double, std::string>> marks() const {
    std::vector<std::pair<double, std::string>> out;
    if (!is_ratio)
      for (double at = 0; at <= last * 1.001; at += step) out.emplace_back(at, fixed_text(at, step < 1 ? 1 : 0));
    else
      for (double power = first; power <= last; ++power)
        out.emplace_back(std::exp2(power),
                         power < 0 ? text("1/", fixed_text(std::exp2(-power), 0)) : fixed_text(std::exp2(power), 0));
    return out;
  }
};

// Draws below `top` and returns where it ends.
double draw_section(std::ostream& out, const BenchSection& section, const Colours& colours, double top) {
  const Axis axis(section);
  std::vector<std::string> here;
  for (const auto& row : section.rows)
    for (const auto& bar : row.bars)
      if (std::find(here.begin(), here.end(), bar.who) == here.end()) here.push_back(bar.who);
  double legend = kPlotStart;
  for (const auto& who : here) {
    out << "<rect x=\"" << legend << "\" y=\"" << top << "\" width=\"11\" height=\"11\" rx=\"2\" class=\"c"
        << colours.at(who) << "\"/><text x=\"" << legend + 16 << "\" y=\"" << top + 10 << "\">" << text_for_html(who)
        << "</text>\n";
    legend += 40 + 7 * static_cast<double>(display_width(who));
  }
  double y = top + 22, bottom = y;
  for (const auto& row : section.rows) bottom += row_height(row);
  for (const auto& [value, mark] : axis.marks()) {
    const double x = axis.x(value);
    out << "<path d=\"M" << x << " " << y << "V" << bottom << "\" class=\"" << (x == axis.origin() ? "one" : "grid")
        << "\"/><text x=\"" << x << "\" y=\"" << bottom + 16 << "\" text-anchor=\"middle\" class=\"soft\">" << mark
        << "</text>\n";
  }
  out << "<text x=\"" << kPlotStart - 30 << "\" y=\"" << bottom + 16 << "\" text-anchor=\"end\" class=\"soft\">"
      << (axis.is_ratio ? "times ours" : text_for_html(section.unit)) << "</text>\n";
  for (const auto& row : section.rows) {
    const double middle = y + (row_height(row)) / 2;
    out << "<text x=\"" << kPlotStart - 12 << "\" y=\"" << middle + 4 << "\" text-anchor=\"end\">"
        << text_for_html(row.label) << "</text>\n";
    if (!row.aside.empty())
      out << "<text x=\"" << kAsideEnd << "\" y=\"" << middle + 4 << "\" text-anchor=\"end\" class=\"soft small\">"
          << text_for_html(row.aside) << "</text>\n";
    double at = y + kRowGap / 2;
    for (const auto& bar : row.bars) {
      const double end = axis.x(bar.value.middle), from = std::min(axis.origin(), end),
                   to = std::max(axis.origin(), end);
      out << "<rect x=\"" << from << "\" y=\"" << at + 1 << "\" width=\"" << to - from << "\" height=\""
          << kBarHeight - 3 << "\" class=\"c" << colours.at(bar.who) << "\"/>";
      if (bar.value.low < bar.value.high)
        out << "<path d=\"M" << axis.x(bar.value.low) << " " << at + kBarHeight / 2 - 0.5 << "H"
            << axis.x(bar.value.high) << "\" class=\"one\"/>";
      out << "<text x=\"" << std::max(to, axis.x(bar.value.high)) + 5 << "\" y=\"" << at + kBarHeight - 3
          << "\" class=\"small\">" << fixed_text(bar.value.middle, axis.is_ratio ? 2 : 0) << "</text>\n";
      at += kBarHeight;
    }
    y += row_height(row);
  }
  return bottom + 28;
}

std::string svg_around(const std::string& inside, double height, bool stands_alone) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 "
      << kPictureWidth << " " << height << "\" role=\"img\" aria-label=\"Speed against rivals\"";
  if (stands_alone)
    out << " class=\"bench\">\n<style>" << kStyle << "</style>\n<rect width=\"" << kPictureWidth << "\" height=\""
        << height << "\" class=\"paper\"/";
  out << ">\n" << inside << "</svg>\n";
  return out.str();
}

std::string table_of(const BenchSection& section) {
  std::string out = "<div class=\"wide\"><table><thead><tr>";
  const auto kind = [&](size_t column) {
    return static_cast<int64_t>(column) < section.n_labels ? " class=\"word\"" : "";
  };
  for (size_t i = 0; i < section.columns.size(); ++i)
    out += text("<th", kind(i), ">", text_for_html(section.columns[i]), "</th>");
  out += "</tr></thead><tbody>\n";
  for (const auto& row : section.rows) {
    out += "<tr>";
    for (size_t i = 0; i < row.cells.size(); ++i)
      out += text("<td", kind(i), ">", text_for_html(row.cells[i]), "</td>");
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

}  // namespace

std::string bench_svg(const BenchDocument& document) {
  const auto colours = colours_of(document);
  std::ostringstream out;
  out << std::fixed << std::setprecision(1)
      << "<text x=\"16\" y=\"26\" class=\"title\">Time of the other / time of "
         "Collegium: right of 1, Collegium is faster</text>\n<text x=\"16\" y=\"46\" class=\"soft\">"
      << text_for_html(document.head) << "</text>\n";
  double y = 60;
  for (const auto& section : document.sections) {
    if (!has_picture(section)) continue;
    out << "<text x=\"16\" y=\"" << y + 22 << "\" class=\"title\">" << text_for_html(section.title) << "</text>\n";
    y = draw_section(out, section, colours, y + 36);
  }
  return svg_around(out.str(), y + 8, true);
}

std::string bench_html(const BenchDocument& document) {
  const auto colours = colours_of(document);
  std::string out = text(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\"><title>collegium bench</title><style>",
      kStyle, kPageStyle, "</style></head>\n<body class=\"bench\"><main><h1>collegium bench</h1>\n<p>",
      text_for_html(document.head),
      "</p>\n<p>Bars: time of the other / time of Collegium where nothing else is said; right of 1, Collegium is "
      "faster. "
      "Contenders take turns in one process; whiskers are quartiles over the turns.</p>\n");
  if (document.stopped_early) out += "<p>Stopped early: the last rows have fewer turns, and some are missing.</p>\n";
  for (const auto& section : document.sections) {
    out += text("<section><h2>", text_for_html(section.title), "</h2>\n<p>", text_for_html(section.note), "</p>\n");
    if (has_picture(section)) {
      std::ostringstream drawn;
      drawn << std::fixed << std::setprecision(1);
      const double height = draw_section(drawn, section, colours, 4);
      out += svg_around(drawn.str(), height, false);
    }
    out += text(has_picture(section) ? "<details>" : "<details open>", "<summary>the figures</summary>",
                table_of(section), "</details></section>\n");
  }
  if (!document.skipped.empty()) {
    out += "<section><h2>Not measured</h2>\n";
    for (const auto& [what, why] : document.skipped)
      out += text("<p>", text_for_html(what), ": ", text_for_html(why), "</p>\n");
    out += "</section>\n";
  }
  return out + "</main></body></html>\n";
}

}  // namespace collegium::cli
