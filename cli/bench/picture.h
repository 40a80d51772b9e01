// The picture of `collegium bench`: how many times as fast as each rival, one row a measurement.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "cli/bench/turns.h"

namespace collegium::cli {

struct PictureBar {
  std::string rival;
  Spread ratio;
};

struct PictureRow {
  std::string label;
  std::vector<PictureBar> bars;
};

/// An SVG image: bars from 1 on an axis of powers of two, quartiles as whiskers.
std::string bench_svg(const std::vector<PictureRow>& rows, std::string_view subtitle);

/// A page with the image and the tables as text; opens offline.
std::string bench_html(std::string_view svg, std::string_view tables);

}  // namespace collegium::cli
