// From the names of sources to token files, once: later calls with the same inputs find the result in the cache.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "collegium/base/config.h"
#include "collegium/data/documents.h"
#include "collegium/data/packed.h"
#include "collegium/data/sources.h"
#include "collegium/data/tokenizer.h"

namespace collegium::data {

struct DataConfig {
  std::vector<std::string> sources = {"shakespeare"};
  std::string tokenizer = "bpe";
  int64_t vocab_size = 2048;
  double held_out = 0.1;
  int64_t split_seed = 0;
  int64_t gap = 4096;
  std::vector<std::string> languages;
  int64_t max_documents = 0;
  double blind = 0;
  bool blind_held_out = false;

  void visit(Fields& field) {
    field("sources", sources, {.help = "names of data sets, .txt files or folders of them; several are mixed"});
    field("tokenizer", tokenizer, {.help = "\"byte\", \"bpe\" (trained on the training text), or a tokenizer.json"});
    field("vocab_size", vocab_size,
          {.help = "vocabulary of a trained bpe, with 256 bytes and the end token",
           .unit = "tokens",
           .min = 257,
           .max = 1 << 20});
    field(
        "held_out", held_out,
        {.help = "share of the text held out for evaluation", .unit = "share of bytes", .min = 1e-6, .max = 0.999999});
    field("split_seed", split_seed, {.help = "which documents are held out", .min = 0});
    field("gap", gap,
          {.help = "text left out between both sides when a single document is cut", .unit = "bytes", .min = 0});
    field("languages", languages, {.help = "only documents of these ids or languages; empty = all"});
    field("max_documents", max_documents,
          {.help = "at most so many documents of each source; 0 = all", .unit = "documents", .min = 0});
    field("blind", blind,
          {.help = "share of the training documents whose prompt does not name the task (of translations the language)",
           .unit = "share of documents",
           .min = 0,
           .max = 1});
    field("blind_held_out", blind_held_out, {.help = "no held-out document's prompt names the task"});
  }
};

struct SplitStatistics {
  int64_t n_documents = 0, n_bytes = 0, n_tokens = 0;
  /// UTF-8 bytes a token, end tokens counted as tokens.
  double bytes_per_token() const {
    return n_tokens > 0 ? static_cast<double>(n_bytes) / static_cast<double>(n_tokens) : 0;
  }
};

struct PreparedData {
  Tokenizer tokenizer;
  TokenSet train, held_out;
  SplitStatistics train_statistics, held_out_statistics;
  std::vector<SourceRecord> sources;  ///< names and hashes, for run records
  std::vector<std::string> notes;     ///< what a reader of results should know
  std::filesystem::path folder;       ///< train.bin, held_out.bin, tokenizer.json, manifest.json
  std::string key;                    ///< names everything that the tokens follow from
  bool from_cache = false;
};

/// Reads, filters and splits the documents, makes the tokenizer (a bpe sees training text only), encodes both sides
/// with an end token after each document, and keeps the result below paths.cache / "prepared" under a hash of source
/// hashes, filters, tokenizer, split seed and share. A damaged folder there is made again.
/// Throws usage Error for a wrong config, Error(data) and Error(io) as the steps do.
PreparedData prepare(const DataConfig& config, const SourcePaths& paths, const OnProgress& progress = {});

/// Throws usage Error where sources or tokenizer cannot be what they say, without reading any.
void check_config(const DataConfig& config);

/// The documents that `config` selects, ids as "source/id" when there are several sources, before the split.
std::vector<Document> select_documents(const DataConfig& config, const std::vector<DocumentSet>& sets);

}  // namespace collegium::data
