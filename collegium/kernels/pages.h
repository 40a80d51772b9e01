// What the system is asked about memory (room.cmake chooses the file that asks it).
#pragma once
#include <cstddef>

namespace collegium::kernels {

/// Asks the system to back [data, data + bytes), whole large pages, with such pages where it can: 64 MB are zeroed at
/// first touch in 27 ms with pages of 4 KiB and in 5 ms with pages of 2 MiB (one server core), and products over them
/// miss fewer translations. Nothing depends on the answer. Blocks that ask are pooled (block_pool.h), so what finding
/// large pages costs on a fragmented machine is paid once a block and not once a pass.
void prefer_large_pages(void* data, size_t bytes);

/// Bytes of memory that this process may use: the machine's, or its control group's when that is less; 0 when unknown.
size_t usable_memory();

}  // namespace collegium::kernels
