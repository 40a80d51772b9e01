// Image classifiers: pictures in, one row of features a picture out, with what their MoE layers decided. To layers and
// routers a picture is a sequence whose tokens are its patches.
//
// B images of C channels, H x W pixels each, P patches an image, N = B P, D model width, K classes.
#pragma once
#include <ATen/core/Tensor.h>

#include "collegium/model/model.h"

namespace collegium::model {

class ImageModel : public Model {
 public:
  using Interface = ImageModel;
  struct Inputs {
    int64_t n_channels = 1, height = 0, width = 0, n_classes = 0;
    Random random{0};
    at::TensorOptions options;
  };
  struct Claims {
    std::vector<std::pair<std::string, std::string>> describe() const { return {}; }
  };
  /// image_BCHW of any floating dtype; hidden_ND of the output is [B, D]. mask_BT of the context is not read.
  virtual ModelOutput forward(const Tensor& image_BCHW, const ModelContext& context) = 0;
  /// Scores of the classes, [B, K].
  virtual Tensor logits(const Tensor& hidden_BD) const = 0;
  /// P.
  virtual int64_t patches_per_image() const = 0;
};

/// Every kind of image model.
Entries<ImageModel> image_models();

}  // namespace collegium::model
