#include "collegium/data/digit_grid.h"

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "collegium/base/error.h"
#include "collegium/data/order.h"
#include "collegium/io/sha256.h"

namespace collegium::data {
namespace {

constexpr int64_t kScenesFormat = 1;

// One side's images by digit, as indices in an order that the split's seed draws.
using Pools = std::vector<std::vector<int64_t>>;

struct SplitPools {
  Pools train, held_out;
};

SplitPools split_pools(const DigitGridConfig& config, const ImageSet& images) {
  const auto random = Random(static_cast<uint64_t>(config.split_seed)).at("split");
  SplitPools out{Pools(static_cast<size_t>(images.n_classes)), Pools(static_cast<size_t>(images.n_classes))};
  for (int64_t digit = 0; digit < images.n_classes; ++digit) {
    const auto all = images.class_N.eq(digit).nonzero().flatten().contiguous();
    const auto n = all.size(0);
    if (n < 2) fail(ErrorKind::data, images.record.name, ": digit ", digit, " has ", n, " images; two are needed");
    const auto n_held = std::clamp<int64_t>(std::llround(config.held_out * static_cast<double>(n)), 1, n - 1);
    const Permutation order(random.at(static_cast<uint64_t>(digit)), n);
    for (int64_t i = 0; i < n; ++i) {
      auto& side = i < n_held ? out.held_out : out.train;
      side[static_cast<size_t>(digit)].push_back(all.const_data_ptr<int64_t>()[order(i)]);
    }
  }
  return out;
}

void check_classes(const DigitGridConfig& config, int64_t n_digits) {
  const auto& classes = config.classes;
  require(classes.size() >= 2, "classes: at least two digits are needed to tell apart, got ", classes.size());
  const std::set<int64_t> distinct(classes.begin(), classes.end());
  require(distinct.size() == classes.size(), "classes: a digit is named twice");
  for (const auto digit : classes)
    require(digit >= 0 && digit < n_digits, "classes: ", digit, " is none of the digits 0 to ", n_digits - 1);
  require(static_cast<int64_t>(classes.size()) < n_digits, "classes: no digit is left to be irrelevant");
}

SceneSet::Parts compose_side(const DigitGridConfig& config, const Pools& pools, int64_t n_scenes, std::string_view side,
                             const Random& random) {
  const auto P = config.grid * config.grid, K = static_cast<int64_t>(config.classes.size());
  std::vector<int64_t> irrelevant;
  for (size_t digit = 0; digit < pools.size(); ++digit)
    if (std::find(config.classes.begin(), config.classes.end(), static_cast<int64_t>(digit)) == config.classes.end())
      irrelevant.insert(irrelevant.end(), pools[digit].begin(), pools[digit].end());
  std::vector<Permutation> order_K;
  for (int64_t k = 0; k < K; ++k) {
    const auto digit = config.classes[static_cast<size_t>(k)];
    const auto n = static_cast<int64_t>(pools[static_cast<size_t>(digit)].size());
    const auto wanted = (n_scenes - k + K - 1) / K;
    if (n < wanted)
      throw Error(ErrorKind::data,
                  text(n_scenes, " ", side, " scenes need ", wanted, " images of digit ", digit, ", there are ", n),
                  "ask for fewer scenes, more classes or another share of held-out images");
    order_K.emplace_back(random.at("deciding").at(static_cast<uint64_t>(k)), n);
  }
  SceneSet::Parts out{.image_NP = at::empty({n_scenes, P}, at::kLong),
                      .label_N = at::empty({n_scenes}, at::kLong),
                      .place_N = at::empty({n_scenes}, at::kLong)};
  auto* image = out.image_NP.mutable_data_ptr<int64_t>();
  const auto places = random.at("place"), others = random.at("others");
  for (int64_t i = 0; i < n_scenes; ++i) {
    const auto k = i % K;
    const auto place = static_cast<int64_t>(places.below(static_cast<uint64_t>(i), static_cast<uint64_t>(P)));
    const auto& pool = pools[static_cast<size_t>(config.classes[static_cast<size_t>(k)])];
    for (int64_t p = 0; p < P; ++p)
      image[i * P + p] = irrelevant[others.below(static_cast<uint64_t>(i * P + p), irrelevant.size())];
    image[i * P + place] = pool[static_cast<size_t>(order_K[static_cast<size_t>(k)](i / K))];
    out.label_N.mutable_data_ptr<int64_t>()[i] = k;
    out.place_N.mutable_data_ptr<int64_t>()[i] = place;
  }
  return out;
}

}  // namespace

SceneSet::SceneSet(Tensor pixel_IHW, Tensor class_I, Parts parts)
    : pixel_IHW_(std::move(pixel_IHW)), class_I_(std::move(class_I)), parts_(std::move(parts)) {}

SceneBatch SceneSet::batch(const std::vector<int64_t>& scenes) const {
  const auto B = static_cast<int64_t>(scenes.size()), P = parts_.image_NP.size(1);
  const auto G = std::llround(std::sqrt(static_cast<double>(P)));
  const auto scene_B = at::tensor(scenes, at::kLong);
  const auto image_BP = parts_.image_NP.index_select(0, scene_B);
  const auto h = pixel_IHW_.size(1), w = pixel_IHW_.size(2);
  // Patches [B, G, G, h, w] become one picture of G h rows and G w columns.
  const auto pixel = pixel_IHW_.index_select(0, image_BP.flatten()).view({B, G, G, h, w}).permute({0, 1, 3, 2, 4});
  SceneBatch out;
  out.image_BCHW = (pixel.reshape({B, 1, G * h, G * w}).to(at::kFloat) - parts_.mean) / parts_.deviation;
  out.label_B = parts_.label_N.index_select(0, scene_B);
  out.shown_BP = class_I_.index_select(0, image_BP.flatten()).view({B, P});
  out.is_deciding_BP = at::arange(P, at::kLong).unsqueeze(0).eq(parts_.place_N.index_select(0, scene_B).unsqueeze(1));
  return out;
}

int64_t digit_side() {
  return 28;
}

int64_t scene_side(const DigitGridConfig& config) {
  return config.grid * digit_side();
}

DigitScenes compose_scenes(const DigitGridConfig& config, const ImageSet& images, uint64_t seed) {
  check_classes(config, images.n_classes);
  const auto pools = split_pools(config, images);
  auto train = compose_side(config, pools.train, config.n_train, "training", Random(seed).at("scenes"));
  auto held_out = compose_side(config, pools.held_out, config.n_held_out, "held-out",
                               Random(static_cast<uint64_t>(config.split_seed)).at("held-out scenes"));
  std::vector<int64_t> known;
  for (const auto& pool : pools.train) known.insert(known.end(), pool.begin(), pool.end());
  const auto seen = images.pixel_NHW.index_select(0, at::tensor(known, at::kLong)).to(at::kDouble);
  train.mean = held_out.mean = seen.mean().item<double>();
  train.deviation = held_out.deviation = std::max(seen.std().item<double>(), 1e-6);

  DigitScenes out;
  out.n_classes = static_cast<int64_t>(config.classes.size());
  out.source = images.record;
  const nlohmann::json inputs = {
      {"format", kScenesFormat},     {"source", images.record.sha256},  {"classes", config.classes},
      {"grid", config.grid},         {"n_train", config.n_train},       {"n_held_out", config.n_held_out},
      {"held_out", config.held_out}, {"split_seed", config.split_seed}, {"seed", seed}};
  out.key = io::sha256_hex(inputs.dump());
  out.train = SceneSet(images.pixel_NHW, images.class_N, std::move(train));
  out.held_out = SceneSet(images.pixel_NHW, images.class_N, std::move(held_out));
  return out;
}

}  // namespace collegium::data
