// How much a token's first expert tells of what the token is part of, when nobody told the model: the digit that a
// patch shows, the language or the source of a text.
//
// N tokens, C classes, E experts.
#pragma once
#include <nlohmann/json.hpp>
#include <vector>

#include "collegium/data/packed.h"
#include "collegium/model/model.h"

namespace collegium::train {

/// Sums over the passes of one evaluation.
class ClassMeter {
 public:
  explicit ClassMeter(int64_t n_classes) : n_classes_(n_classes) {}
  /// class_N: int64 in [0, C), or -1 = does not count.
  void add(const model::ModelOutput& output, const Tensor& class_N);
  /// "class_information": mutual information of class and first expert over the entropy of the classes, 0 to 1, mean
  /// over the layers with experts; absent where fewer than two classes were seen, or no expert.
  void report(nlohmann::json& row) const;

 private:
  int64_t n_classes_;
  std::vector<Tensor> count_CE_;  // by layer, float64
};

/// Classes of a set's documents: their languages, or where all are of one language their sources (ids begin with
/// "source/" where there are several).
struct DocumentClasses {
  std::vector<int64_t> class_of_document;
  int64_t n_classes = 0;
};
DocumentClasses document_classes(const data::TokenSet& tokens);

/// Class of each token by its document; -1 where document_N is. [N]
Tensor classes_of(const DocumentClasses& classes, const Tensor& document_N);

}  // namespace collegium::train
