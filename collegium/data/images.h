// Images with classes, from a known source.
//
// N images, H x W pixels each.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "collegium/data/documents.h"
#include "collegium/data/sources.h"

namespace collegium::data {

using at::Tensor;

struct ImageSet {
  Tensor pixel_NHW;  ///< uint8, one grey channel, 0 = background
  Tensor class_N;    ///< int64 in [0, n_classes), ascending
  int64_t n_classes = 0;
  SourceRecord record;
};

/// The digits of one class: a JSON file {"data": [grey values in [0, 1], image by image]}. uint8 [n, 28, 28].
/// Throws Error(data) when it is something else. `name` is for errors.
Tensor read_digit_file(const std::string& bytes, const std::string& name);

/// The images of `source` in `archive`. Throws Error(data) when their number is not the catalogue's.
ImageSet read_images(const Source& source, const std::filesystem::path& archive);

/// A source of images by name. A usage Error lists the known ones, and says so where the name is of a source of texts.
ImageSet read_image_source(const std::string& name, const SourcePaths& paths, const OnProgress& progress = {});

}  // namespace collegium::data
