#include "collegium/model/image_model.h"

namespace collegium::model {

extern const Entry<ImageModel> image_model_patch_classifier;

Entries<ImageModel> image_models() {
  static constexpr const Entry<ImageModel>* kAll[] = {
      &image_model_patch_classifier,
  };
  return kAll;
}

}  // namespace collegium::model
