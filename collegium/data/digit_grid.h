// Scenes of digits: a square grid of real digits of which exactly one, at a random place, is of a class that decides
// the label; all others are of other classes and say nothing. After Chowdhury 2023 (P089), where
// digits 0 and 1 are the class-discriminative patterns and 2 to 9 the irrelevant ones.
//
// N scenes, B scenes of a batch, G digits a side of the grid, P = G G patches a scene, H x W pixels a scene.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "collegium/base/config.h"
#include "collegium/data/images.h"

namespace collegium::data {

struct DigitGridConfig {
  std::string source = "mnist";
  std::vector<int64_t> classes = {0, 1};
  int64_t grid = 4, n_train = 500, n_held_out = 600;
  double held_out = 0.3;
  int64_t split_seed = 0;

  void visit(Fields& field) {
    field("source", source, {.help = "images by name, see `collegium data`"});
    field("classes", classes, {.help = "which digits decide the label, each a class; all others are irrelevant"});
    field("grid", grid,
          {.help = "digits a side: a scene has grid * grid patches", .unit = "patches", .min = 1, .max = 32});
    field("n_train", n_train, {.help = "scenes to learn from", .unit = "scenes", .min = 1});
    field("n_held_out", n_held_out, {.help = "scenes for evaluation", .unit = "scenes", .min = 1});
    field("held_out", held_out,
          {.help = "share of each digit's images that only held-out scenes show", .min = 0.01, .max = 0.99});
    field("split_seed", split_seed, {.help = "which images are held out", .min = 0});
  }
};

struct SceneBatch {
  Tensor image_BCHW;      ///< float32, one channel, standardised by the training images' mean and deviation
  Tensor label_B;         ///< int64 in [0, number of classes)
  Tensor shown_BP;        ///< int64, the digit that each patch shows, patches row by row
  Tensor is_deciding_BP;  ///< bool, true for the patch that decides the label
};

/// Scenes as what they show; pixels are put together batch by batch.
class SceneSet {
 public:
  struct Parts {
    Tensor image_NP;          ///< int64 indices into the images
    Tensor label_N, place_N;  ///< int64: class, and the patch that decides it
    double mean = 0, deviation = 1;
  };
  SceneSet() = default;
  SceneSet(Tensor pixel_IHW, Tensor class_I, Parts parts);
  int64_t size() const { return parts_.label_N.size(0); }
  /// The scenes of these numbers, each in [0, size).
  SceneBatch batch(const std::vector<int64_t>& scenes) const;
  const Parts& parts() const { return parts_; }

 private:
  Tensor pixel_IHW_, class_I_;
  Parts parts_;
};

struct DigitScenes {
  SceneSet train, held_out;
  int64_t n_classes = 0;
  SourceRecord source;
  std::string key;  ///< names everything that the scenes follow from
};

/// Pixels a side of a scene, and of one of its patches.
int64_t scene_side(const DigitGridConfig& config);
int64_t digit_side();

/// Composes the scenes. No image is on both sides, and no deciding image is in two scenes; classes are even. Training
/// scenes follow from `seed`, held-out ones from split_seed alone, so that all seeds are judged by the same scenes.
/// Throws a usage Error for classes that are no digits, are named twice, are fewer than two or leave no irrelevant
/// digit, and an Error(data) where there are fewer images of a class than scenes that need one.
DigitScenes compose_scenes(const DigitGridConfig& config, const ImageSet& images, uint64_t seed);

}  // namespace collegium::data
