// Texts as documents: from a known source, a text file, or a folder of text files.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "collegium/data/sources.h"

namespace collegium::data {

struct Document {
  std::string id;  ///< unique within its source; "source/id" once several sources are mixed
  std::string title;
  std::string language;             ///< ISO 639-3 where known, or the source's own code, else ""
  std::string text;                 ///< UTF-8, never empty
  std::string group;                ///< documents of one group share text and stay on one side of a split; "" = alone
  int64_t n_prompt_bytes = 0;       ///< so much of the text is given: read, and not counted in any loss
  int64_t n_instruction_bytes = 0;  ///< so much of the prompt, at its start, names the task (instructions.h)
};

/// What a source was when it was read, for run records.
struct SourceRecord {
  std::string name;     ///< catalogue name, or the path as given
  std::string sha256;   ///< of the archive; for local text, of the list of names and their hashes
  std::string licence;  ///< "" for local text
};

struct DocumentSet {
  std::vector<Document> documents;  ///< in byte order of their ids
  SourceRecord record;
};

/// The documents of `source` in `archive`. Throws Error(data) when their number is not the catalogue's.
std::vector<Document> read_documents(const Source& source, const std::filesystem::path& archive);

/// One declaration page: id, title, language and text. Documents of one language share a group. `name` is for errors.
Document read_udhr_page(std::string_view page, std::string_view name);

/// Joins the groups of documents that have a line of at least `shortest` bytes in common.
void join_groups_that_share_lines(std::span<Document> documents, size_t shortest = 80);

/// A .txt file, or a folder whose .txt files (searched through subfolders) become one document each; id and title are
/// the path below the folder without ".txt". Throws Error(io) when nothing is there, and Error(data) for an empty
/// file, for a NUL byte (binary content) and for text that is not UTF-8, naming file, offset and byte.
DocumentSet read_local(const std::filesystem::path& path);

/// Whether there is such a source, without reading it. Throws usage Error with the known sources.
void check_source(const std::string& name_or_path);

/// A catalogue name or a path. A name without a file of that name and unknown to the catalogue is a usage Error
/// that lists the known sources.
DocumentSet read_source(const std::string& name_or_path, const SourcePaths& paths, const OnProgress& progress = {});

}  // namespace collegium::data
