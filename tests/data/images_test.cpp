// Images and scenes: the reader's errors, what a scene is made of, and that nothing held out was seen in training.
#include "collegium/data/images.h"

#include <ATen/ATen.h>

#include <set>

#include "collegium/data/digit_grid.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

std::string digit_json(int64_t n_values, const std::string& value = "0.502") {
  std::string out = "{\"data\": [";
  for (int64_t i = 0; i < n_values; ++i) out += (i ? "," : "") + value;
  return out + "]}";
}

// Image i shows the grey value i mod 256 everywhere but in its first pixel, which holds its digit.
ImageSet some_digits(int64_t each) {
  ImageSet out;
  out.n_classes = 10;
  out.class_N = at::arange(10, at::kLong).repeat_interleave(each);
  out.pixel_NHW =
      at::arange(10 * each, at::kLong).remainder(256).view({-1, 1, 1}).expand({-1, 28, 28}).to(at::kByte).clone();
  out.pixel_NHW.select(1, 0).select(1, 0).copy_(out.class_N);
  out.record = {.name = "some", .sha256 = "0", .licence = ""};
  return out;
}

std::set<int64_t> images_of(const SceneSet& set) {
  const auto all = set.parts().image_NP.flatten().contiguous();
  return {all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel()};
}

std::vector<int64_t> first(int64_t n) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(i);
  return out;
}

}  // namespace

TEST_CASE("a file of digits gives whole images of grey values") {
  const auto pixel = read_digit_file(digit_json(2 * 784), "3.json");
  CHECK((pixel.sizes() == at::IntArrayRef{2, 28, 28}));
  CHECK(pixel.eq(128).all().item<bool>());  // 128 / 255 = 0.50196, stored as 0.502
}

TEST_CASE("a file that is none of digits is refused with what is wrong") {
  const Scratch scratch;
  const auto error = [&](const std::string& bytes) {
    return error_of(scratch, [&] { read_digit_file(bytes, "3.json"); });
  };
  CHECK(error("[1, 2]").find("4: 3.json: not a file of digits") == 0);
  CHECK(error("{\"data\": [0, 1").find("4: 3.json: not a file of digits") == 0);
  CHECK(error(digit_json(785)) == "4: 3.json: 785 values do not make whole images of 784 pixels");
  CHECK(error(digit_json(0)) == "4: 3.json: 0 values do not make whole images of 784 pixels");
  CHECK(error(digit_json(784, "1.5")) == "4: 3.json: value 0 is no number in [0, 1]");
  CHECK(error(digit_json(784, "\"x\"")) == "4: 3.json: value 0 is no number in [0, 1]");
}

TEST_CASE("images and texts are not taken for each other") {
  const Scratch scratch;
  const SourcePaths paths{.cache = scratch.path(), .offline = true};
  CHECK(error_of(scratch, [&] { read_source("mnist", paths); }) == "2: data: source 'mnist' holds images, not texts");
  CHECK(error_of(scratch, [&] { read_image_source("sotu", paths); }) ==
        "2: source 'sotu' holds texts, not images (known: mnist)");
  CHECK(error_of(scratch, [&] { read_image_source("mnits", paths); }) ==
        "2: unknown source of images 'mnits'; did you mean 'mnist'? (known: mnist)");
}

TEST_CASE("a scene shows one deciding digit at its place, and irrelevant ones elsewhere") {
  const auto images = some_digits(40);
  const DigitGridConfig config{.classes = {3, 7}, .grid = 3, .n_train = 41, .n_held_out = 12, .held_out = 0.25};
  const auto scenes = compose_scenes(config, images, 5);
  CHECK(scenes.n_classes == 2);
  REQUIRE(scenes.train.size() == 41);
  const auto batch = scenes.train.batch(first(41));
  CHECK((batch.image_BCHW.sizes() == at::IntArrayRef{41, 1, 84, 84}));
  CHECK(batch.label_B.sum().item<int64_t>() == 20);  // even but for the odd one
  CHECK(batch.is_deciding_BP.sum(1).eq(1).all().item<bool>());
  const auto is_class_BP = batch.shown_BP.eq(3).logical_or(batch.shown_BP.eq(7));
  CHECK(at::equal(is_class_BP, batch.is_deciding_BP));
  const auto decides_B = (batch.shown_BP * batch.is_deciding_BP).sum(1);
  CHECK(at::equal(decides_B, at::where(batch.label_B.eq(0), 3, 7)));
  CHECK(batch.is_deciding_BP.sum(0).gt(0).sum().item<int64_t>() >= 8);  // places differ

  // Each patch's first pixel is the digit it shows: the picture is laid out row by row.
  const auto& parts = scenes.train.parts();
  for (int64_t p = 0; p < 9; ++p) {
    const auto pixel_B =
        batch.image_BCHW.select(1, 0).select(1, p / 3 * 28).select(1, p % 3 * 28) * parts.deviation + parts.mean;
    CHECK(at::allclose(pixel_B, batch.shown_BP.select(1, p).to(at::kFloat), 1e-4, 1e-3));
  }
}

TEST_CASE("held-out scenes share no image with training scenes, and no deciding image comes twice") {
  const auto images = some_digits(40);
  const DigitGridConfig config{.grid = 4, .n_train = 60, .n_held_out = 20, .held_out = 0.25};
  const auto scenes = compose_scenes(config, images, 5);
  const auto seen = images_of(scenes.train);
  for (const auto image : images_of(scenes.held_out)) CHECK_FALSE(seen.count(image));
  for (const auto* side : {&scenes.train, &scenes.held_out}) {
    const auto& parts = side->parts();
    const auto decides = parts.image_NP.gather(1, parts.place_N.unsqueeze(1)).flatten().contiguous();
    const std::set<int64_t> distinct(decides.const_data_ptr<int64_t>(),
                                     decides.const_data_ptr<int64_t>() + decides.numel());
    CHECK(static_cast<int64_t>(distinct.size()) == side->size());
  }
}

TEST_CASE("training scenes follow from the seed, held-out ones do not") {
  const auto images = some_digits(40);
  const DigitGridConfig config{.n_train = 20, .n_held_out = 20};
  const auto one = compose_scenes(config, images, 1), again = compose_scenes(config, images, 1),
             other = compose_scenes(config, images, 2);
  CHECK(at::equal(one.train.parts().image_NP, again.train.parts().image_NP));
  CHECK(one.key == again.key);
  CHECK_FALSE(at::equal(one.train.parts().image_NP, other.train.parts().image_NP));
  CHECK(one.key != other.key);
  CHECK(at::equal(one.held_out.parts().image_NP, other.held_out.parts().image_NP));
  auto elsewhere = config;
  elsewhere.split_seed = 9;
  CHECK_FALSE(at::equal(one.held_out.parts().image_NP, compose_scenes(elsewhere, images, 1).held_out.parts().image_NP));
}

TEST_CASE("scenes that cannot be composed are refused") {
  const Scratch scratch;
  const auto images = some_digits(10);
  const auto error = [&](const DigitGridConfig& config) {
    return error_of(scratch, [&] { compose_scenes(config, images, 1); });
  };
  CHECK(error({.classes = {1}}) == "2: classes: at least two digits are needed to tell apart, got 1");
  CHECK(error({.classes = {1, 1}}) == "2: classes: a digit is named twice");
  CHECK(error({.classes = {1, 10}}) == "2: classes: 10 is none of the digits 0 to 9");
  CHECK(error({.classes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}) == "2: classes: no digit is left to be irrelevant");
  CHECK(error({.n_train = 15, .n_held_out = 2}) ==
        "4: 15 training scenes need 8 images of digit 0, there are 7 [ask for fewer scenes, more classes or another "
        "share of held-out images]");
}

TEST_CASE("mnist: 10,000 digits, none twice" * doctest::skip(is_missing("mnist images", {"mnist"}))) {
  const auto images = read_image_source("mnist", offline_paths());
  CHECK((images.pixel_NHW.sizes() == at::IntArrayRef{10000, 28, 28}));
  CHECK(images.n_classes == 10);
  CHECK(images.class_N.bincount().min().item<int64_t>() == 863);
  CHECK(images.pixel_NHW.max().item<int64_t>() == 255);
  std::set<std::string> distinct;
  const auto* pixel = reinterpret_cast<const char*>(images.pixel_NHW.const_data_ptr<uint8_t>());
  for (int64_t i = 0; i < 10000; ++i) distinct.emplace(pixel + i * 784, 784);
  CHECK(distinct.size() == 10000);
}
