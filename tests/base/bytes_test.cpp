#include "collegium/base/bytes.h"

#include <doctest/doctest.h>

using namespace collegium;

TEST_CASE("bytes read as people write them") {
  constexpr double kGiB = 1073741824;
  CHECK(bytes_text(0) == "0 B");
  CHECK(bytes_text(1023) == "1023 B");
  CHECK(bytes_text(1536) == "1.5 KiB");
  CHECK(bytes_text(3.25 * kGiB) == "3.2 GiB");
  CHECK(bytes_text(200 * kGiB) == "200 GiB");
  CHECK(bytes_text(5000 * 1024 * kGiB) == "5000 TiB");
}
