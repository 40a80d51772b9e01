// Parting documents into training and held-out text.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "collegium/data/documents.h"

namespace collegium::data {

struct SplitOptions {
  double held_out = 0.1;  ///< share of the bytes, in (0, 1); met as well as whole documents allow
  uint64_t seed = 0;
  int64_t gap = 4096;  ///< bytes left out between both sides when one document has to be cut
};

struct Split {
  std::vector<Document> train, held_out;
  std::vector<std::string> notes;  ///< what a reader of results should know
};

/// Groups of documents (see Document::group) go whole to one side, in the order of a hash of seed and name, so the
/// same documents split the same way on every machine. A single document is cut near its end: the tail is held out,
/// `gap` bytes between both sides are dropped, and a note says so.
/// Throws Error(data) when one side would be empty; usage Error when the share is out of range.
Split split_documents(std::vector<Document> documents, const SplitOptions& options);

}  // namespace collegium::data
