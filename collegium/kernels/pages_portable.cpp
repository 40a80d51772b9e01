// For systems other than Linux (room.cmake chooses).
#include "collegium/kernels/pages.h"

namespace collegium::kernels {

void prefer_large_pages(void*, size_t) {}

}  // namespace collegium::kernels
