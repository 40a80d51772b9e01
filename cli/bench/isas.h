// Instruction sets to measure with. Ours and those of torch's libraries are chosen when a process begins, so another
// set is another process with these variables.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "cli/bench/child.h"
#include "cli/command.h"

namespace collegium::cli {

/// The names that --isa means. Empty: what is chosen in this process. "all": each of this processor's sets that has
/// loops of its own, but plain; of sets that differ in some products only, the most capable. A usage Error for a name
/// that is unknown or that this processor lacks.
std::vector<std::string> wanted_isas(const std::string& option);

/// Variables that hold ours, ATen, oneDNN and MKL to a set.
Variables isa_variables(std::string_view isa);

/// The element types to measure with a set, as --type names them: of "all" only float32 where torch's products of
/// bfloat16 are plain loops, hundreds of times slower (AVX2).
std::string types_with(std::string_view isa, const std::string& wish);

/// Whether this process runs with the set, and torch is held to it, too.
bool runs_with(std::string_view isa, const Environment& environment);

}  // namespace collegium::cli
