// Layers of published models: their weights, read from the files that their authors put out, under our names.
//
// A layout says what the tensors of a model are called and what is in them; it is one function in published.cpp.
// Files are safetensors: one, or several with or without the index that Hugging Face writes beside them. Pickled files
// (.bin, .pt) are never read.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/value.h"
#include "collegium/io/safetensors.h"

namespace collegium {

/// One mixture-of-experts layer.
struct PublishedLayer {
  std::string kind;  ///< of the catalogue of layers
  Table fields;      ///< its fields, components too
  int64_t d_model = 0;
  std::vector<io::NamedTensor> tensors;  ///< by the names that such a layer collects, in the file's type
};

/// Names of the layouts.
std::vector<std::string> published_layouts();

/// Layer `layer` (from 0) of the model in `path`, a folder or a .safetensors file.
/// Throws a usage Error for an unknown layout, a folder without safetensors, or a layer that the model lacks (it lists
/// those that are there); of kind data for a file that is no safetensors, a tensor that is missing or of another shape
/// than the others say, and for a config.json that says what the layout cannot be.
PublishedLayer read_published(std::string_view layout, const io::Path& path, int64_t layer);

}  // namespace collegium
