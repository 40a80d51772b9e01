// Training a byte pair encoding.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

#include "collegium/data/sources.h"
#include "collegium/data/tokenizer.h"

namespace collegium::data {

/// Byte-level BPE over `texts` (Sennrich et al. 2016, on bytes as in Radford et al. 2019). The pair with the highest
/// count merges first; of equal counts the one with the lower left id, then the lower right id. Stops early when no
/// pair is left that occurs twice, so the vocabulary may come out smaller than asked. The result depends on the
/// texts alone. `vocab_size` counts the 256 bytes and the end token: at least 257 (usage Error).
/// Reports stage "tokenizer" with ids made and wanted.
Tokenizer train_bpe(std::span<const std::string_view> texts, int64_t vocab_size, const OnProgress& progress = {});

}  // namespace collegium::data
