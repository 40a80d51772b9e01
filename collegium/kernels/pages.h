// Large buffers on large pages: fresh memory is zeroed page by page at first touch, and for a weight's gradient
// that costs more than the arithmetic when pages are small (64 MB: 27 ms with 4 KiB pages, 5 ms with 2 MiB ones,
// measured on one server core). The exception is a virtual machine that has handed its free memory back to its host:
// there the first touch of memory that lay idle for seconds costs about 2.5 ms a MiB, whatever the page size, and
// large blocks are handed back before small ones.
#pragma once
#include <cstddef>

namespace collegium::kernels {

/// Asks the system to back [data, data + bytes) with large pages where it can. Small buffers are left alone, and
/// nothing depends on the answer.
void prefer_large_pages(void* data, size_t bytes);

}  // namespace collegium::kernels
