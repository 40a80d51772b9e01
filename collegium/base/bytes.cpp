#include "collegium/base/bytes.h"

#include <iterator>

#include "collegium/base/text_table.h"

namespace collegium {

std::string bytes_text(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) bytes /= 1024, ++unit;
  return fixed_text(bytes, unit == 0 || bytes >= 100 ? 0 : 1) + " " + kUnits[unit];
}

}  // namespace collegium
