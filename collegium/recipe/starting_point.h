// The weights that a run starts from when its recipe says `train.init_from`: found, checked against the model, copied.
// Tensors go over by name. What the source lacks stays new, what the model lacks is left over, and both are listed; a
// tensor of another shape is an error unless train.init_rows or train.init_fresh says what to do with it. Optimiser and
// step are not taken: the run begins anew from those weights.
#pragma once
#include "collegium/base/parameters.h"
#include "collegium/recipe/run.h"

namespace collegium {

class Workload;

struct StartingPoint {
  io::Path run;         ///< folder of the run; empty for a checkpoint that stands alone
  io::Path checkpoint;  ///< its folder, with a weights.safetensors that matches its manifest
  int64_t step = 0;
  std::string weights;  ///< SHA-256 of that file
};

/// A tensor's name and shape.
struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};

/// What goes where.
struct WeightMatch {
  struct Rows {
    std::string name;
    int64_t taken, here, there;
  };
  std::vector<std::string> taken;      ///< name and shape are the same
  std::vector<Rows> rows;              ///< the first rows
  std::vector<std::string> fresh;      ///< of the model, not taken
  std::vector<std::string> left_over;  ///< of the source, not taken
  nlohmann::json json() const;
  std::vector<std::string> lines() const;  ///< for people
};

/// Whether init_from names a recipe rather than a run or a checkpoint.
bool starts_from_recipe(const TrainSection& train);

/// The run that init_from's recipe is with this run's seed. A usage Error for recipes that start from each other in a
/// circle.
Recipe source_recipe(const RunConfig& config);

/// Where `config` starts. Trains a recipe's source unless a finished run counts for `reuse`. Errors: usage for a source
/// that is not there, data for one without a good checkpoint, refused where its weights are not train.init_weights.
StartingPoint find_starting_point(const RunConfig& config, const RunSetting& setting, Reuse reuse);

/// Matches the model's tensors with those of a source called `source`. A usage Error lists tensors of other shapes,
/// with what a recipe may say to take them, and names patterns that fit no tensor; so does a source that shares none.
WeightMatch match_weights(const std::vector<ParameterRef>& model, const std::vector<NamedShape>& source,
                          const TrainSection& train, std::string_view name);

/// What would be taken, from shapes alone: nothing is trained and no weights are read.
WeightMatch plan_start(const RunConfig& config, const RunSetting& setting);

/// Copies the weights; the tensors of `model` keep their type and device.
WeightMatch take_weights(const std::vector<ParameterRef>& model, const StartingPoint& from, const TrainSection& train);

/// Refuses a source whose tokens mean other words than those of `data`.
void require_same_words(const StartingPoint& from, const Workload& data);

}  // namespace collegium
