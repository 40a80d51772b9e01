#include <sys/mman.h>

#include <cstdint>

#include "collegium/kernels/pages.h"

namespace collegium::kernels {

void prefer_large_pages(void* data, size_t bytes) {
  constexpr size_t page = size_t{2} << 20;
  if (bytes < 2 * page) return;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace collegium::kernels
