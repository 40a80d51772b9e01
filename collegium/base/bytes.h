// Amounts of memory and disk as people write them.
#pragma once
#include <string>

namespace collegium {

/// "512 B", "3.2 GiB", "200 MiB".
std::string bytes_text(double bytes);

}  // namespace collegium
