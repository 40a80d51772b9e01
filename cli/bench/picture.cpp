#include "cli/bench/picture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <map>
#include <sstream>

#include "collegium/base/error.h"
#include "collegium/base/text_table.h"
#include "collegium/inspect/page.h"

namespace collegium::cli {

std::string bench_svg(const std::vector<PictureRow>& rows, std::string_view subtitle) {
  constexpr double width = 1010, left = 320, right = 60, top = 64, bar = 12, gap = 10;
  constexpr std::array<const char*, 4> colours = {"#1f5fa8", "#b0541d", "#4a8f3c", "#777"};
  std::map<std::string, size_t> rivals;
  double low = 0.5, high = 2, height = top;
  for (const auto& row : rows) {
    for (const auto& b : row.bars) {
      rivals.try_emplace(b.rival, rivals.size());
      low = std::min(low, b.ratio.low), high = std::max(high, b.ratio.high);
    }
    height += bar * static_cast<double>(row.bars.size()) + gap;
  }
  const double first = std::floor(std::log2(std::max(low, 1e-3))), last = std::ceil(std::log2(high));
  const auto X = [&](double ratio) {
    return left + (std::log2(std::max(ratio, 1e-3)) - first) / (last - first) * (width - left - right);
  };
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width
      << " " << height + 40
      << "\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"Speed against rivals\">"
      << "\n<rect width=\"" << width << "\" height=\"" << height + 40 << "\" fill=\"#fff\"/>\n<text x=\"16\" y=\"22\" "
      << "font-size=\"15\" fill=\"#222\">Time of the other / time of Collegium (right of 1: Collegium is "
         "faster)</text>\n"
      << "<text x=\"16\" y=\"40\" fill=\"#555\">" << text_for_html(std::string(subtitle)) << "</text>\n";
  double legend = left;
  for (const auto& [rival, i] : rivals) {
    out << "<rect x=\"" << legend << "\" y=\"48\" width=\"10\" height=\"10\" fill=\"" << colours[i % colours.size()]
        << "\"/><text x=\"" << legend + 14 << "\" y=\"57\" fill=\"#333\">" << text_for_html(rival) << "</text>\n";
    legend += 30 + 8 * static_cast<double>(rival.size());
  }
  for (double power = first; power <= last; ++power) {
    const double x = X(std::exp2(power));
    out << "<path d=\"M" << x << " " << top << "V" << height << "\" stroke=\"" << (power == 0 ? "#333" : "#ddd")
        << "\"/><text x=\"" << x << "\" y=\"" << height + 18 << "\" text-anchor=\"middle\" fill=\"#555\">"
        << (power < 0 ? text("1/", fixed_text(std::exp2(-power), 0)) : fixed_text(std::exp2(power), 0)) << "</text>\n";
  }
  double y = top + gap / 2;
  for (const auto& row : rows) {
    const double middle = y + bar * static_cast<double>(row.bars.size()) / 2;
    out << "<text x=\"" << left - 10 << "\" y=\"" << middle + 4 << "\" text-anchor=\"end\" fill=\"#222\">"
        << text_for_html(row.label) << "</text>\n";
    for (const auto& b : row.bars) {
      const double from = std::min(X(1), X(b.ratio.middle)), to = std::max(X(1), X(b.ratio.middle));
      out << "<rect x=\"" << from << "\" y=\"" << y + 1 << "\" width=\"" << to - from << "\" height=\"" << bar - 2
          << "\" fill=\"" << colours[rivals[b.rival] % colours.size()] << "\"/><path d=\"M" << X(b.ratio.low) << " "
          << y + bar / 2 << "H" << X(b.ratio.high) << "\" stroke=\"#222\"/><text x=\""
          << std::max(to, X(b.ratio.high)) + 4 << "\" y=\"" << y + bar - 2 << "\" font-size=\"10\" fill=\"#333\">"
          << fixed_text(b.ratio.middle, 2) << "</text>\n";
      y += bar;
    }
    y += gap;
  }
  out << "</svg>\n";
  return out.str();
}

std::string bench_html(std::string_view svg, std::string_view tables) {
  return text(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>collegium bench</title><style>body{"
      "font-family:sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}pre{overflow:auto;background:#f6f6f6;"
      "padding:1em}</style></head>\n<body><h1>collegium bench</h1>\n",
      svg, "<pre>", text_for_html(std::string(tables)), "</pre></body></html>\n");
}

}  // namespace collegium::cli
