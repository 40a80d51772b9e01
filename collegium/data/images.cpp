#include "collegium/data/images.h"

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "collegium/base/error.h"
#include "collegium/data/archive.h"

namespace collegium::data {
namespace {

constexpr int64_t kDigitSide = 28;

}  // namespace

Tensor read_digit_file(const std::string& bytes, const std::string& name) {
  const auto parsed = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object() || !parsed.contains("data") || !parsed["data"].is_array())
    fail(ErrorKind::data, name, ": not a file of digits: an object with a list 'data' was expected");
  const auto& list = parsed["data"];
  const auto n = static_cast<int64_t>(list.size()), pixels = kDigitSide * kDigitSide;
  if (n == 0 || n % pixels != 0)
    fail(ErrorKind::data, name, ": ", n, " values do not make whole images of ", pixels, " pixels");
  const auto out = at::empty({n / pixels, kDigitSide, kDigitSide}, at::kByte);
  auto* to = out.mutable_data_ptr<uint8_t>();
  for (const auto& value : list) {
    // Values are k / 255 rounded to three digits, which still tells k.
    const auto grey = value.is_number() ? value.get<double>() : -1.0;
    if (!(grey >= 0 && grey <= 1))
      fail(ErrorKind::data, name, ": value ", to - out.const_data_ptr<uint8_t>(), " is no number in [0, 1]");
    *to++ = static_cast<uint8_t>(std::lround(255 * grey));
  }
  return out;
}

ImageSet read_images(const Source& source, const std::filesystem::path& archive) {
  ensure(source.reader == SourceReader::digits, source.name, " holds no images");
  const auto is_wanted = [&](std::string_view name) {
    return name.starts_with(source.folder) && name.ends_with(source.suffix) &&
           name.find('/', source.folder.size()) == std::string_view::npos;
  };
  ImageSet out;
  std::vector<Tensor> pixels, classes;
  // Members come in the order of their names, which are the digits 0.json to 9.json.
  for (const auto& member : read_archive(archive, is_wanted)) {
    pixels.push_back(read_digit_file(member.bytes, member.name));
    classes.push_back(at::full({pixels.back().size(0)}, out.n_classes++, at::kLong));
  }
  int64_t n = 0;
  for (const auto& some : pixels) n += some.size(0);
  if (n != source.n_documents)
    fail(ErrorKind::data, archive.string(), ": '", source.name, "' has ", source.n_documents,
         " images, but this archive has ", n);
  out.pixel_NHW = at::cat(pixels), out.class_N = at::cat(classes);
  out.record = {
      .name = std::string(source.name), .sha256 = std::string(source.sha256), .licence = std::string(source.licence)};
  return out;
}

ImageSet read_image_source(const std::string& name, const SourcePaths& paths, const OnProgress& progress) {
  const auto* source = find_source(name);
  if (source && source->reader == SourceReader::digits) return read_images(*source, locate(*source, paths, progress));
  std::vector<std::string> known;
  for (const auto& other : sources())
    if (other.reader == SourceReader::digits) known.emplace_back(other.name);
  const auto near = nearest(name, known);
  fail(ErrorKind::usage,
       source ? text("source '", name, "' holds texts, not images")
              : text("unknown source of images '", name, "'", near.empty() ? "" : text("; did you mean '", near, "'?")),
       " (known: ", join(known), ")");
}

}  // namespace collegium::data
