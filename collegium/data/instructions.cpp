#include "collegium/data/instructions.h"

#include "collegium/base/error.h"

namespace collegium::data {

void take_instructions(std::span<Document> documents, double share, const Random& random) {
  for (size_t i = 0; i < documents.size(); ++i) {
    auto& d = documents[i];
    if (d.n_instruction_bytes == 0 || random.uniform(i) >= share) continue;
    ensure(d.n_instruction_bytes <= d.n_prompt_bytes, "an instruction is a part of the prompt of '", d.id, "'");
    d.text.erase(0, static_cast<size_t>(d.n_instruction_bytes));
    d.n_prompt_bytes -= d.n_instruction_bytes;
    d.n_instruction_bytes = 0;
  }
}

}  // namespace collegium::data
