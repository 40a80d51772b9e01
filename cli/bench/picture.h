// The pictures of `collegium bench`: how many times as fast as each rival, one row a measurement. Colours follow the
// reader's light or dark setting.
#pragma once
#include <string>

#include "cli/bench/page.h"

namespace collegium::cli {

/// An SVG image of all sections: bars from 1 on an axis of powers of two with quartiles as whiskers, or from 0 on a
/// linear axis where a section has a unit.
std::string bench_svg(const BenchDocument& document);

/// A page with a picture and a table for each section; opens offline.
std::string bench_html(const BenchDocument& document);

}  // namespace collegium::cli
