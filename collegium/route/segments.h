// Neighbouring tokens of a sequence as groups: what shares one merge or one choice.
//
// N tokens, G groups.
#pragma once
#include "collegium/route/context.h"

namespace collegium::route {

struct Segments {
  Tensor group_N;     ///< int64, ascending
  Tensor offset_G1;   ///< int64 rows of each group, on the CPU
  Tensor sequence_G;  ///< int64, whose group it is
};

/// Groups of `length` tokens counted from the start of each sequence, the last one shorter; 0 = one group a sequence.
Segments segments_of(const Context& context, int64_t n_tokens, int64_t length, const at::Device& device);

}  // namespace collegium::route
