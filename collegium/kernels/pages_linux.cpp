#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "collegium/kernels/pages.h"

namespace collegium::kernels {

void prefer_large_pages(void* data, size_t bytes) {
  madvise(data, bytes, MADV_HUGEPAGE);
}

size_t usable_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page <= 0) return 0;
  size_t bytes = static_cast<size_t>(pages) * static_cast<size_t>(page);
  // The control group as a container sees it, version 2 and version 1; "max" is no number and no limit.
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    if (size_t limit = 0; file >> limit) bytes = std::min(bytes, limit);
  }
  return bytes;
}

}  // namespace collegium::kernels
