// For systems other than Linux (room.cmake chooses).
#include <unistd.h>

#include "collegium/kernels/pages.h"

namespace collegium::kernels {

void prefer_large_pages(void*, size_t) {}

size_t usable_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<size_t>(pages) * static_cast<size_t>(page) : 0;
}

}  // namespace collegium::kernels
