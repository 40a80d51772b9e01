// Checkpoints that are there as a whole or not at all, whenever the power goes.
//
//   <dir>/step-00000120/weights.safetensors   the model, loadable by itself
//                       state.safetensors     everything else made of tensors
//                       meta.json             configuration, data cursor, seeds, versions: any JSON
//                       manifest.json         sizes and SHA-256 of the three; readers trust nothing else
//   <dir>/LATEST                              "step-00000120", for people and scripts; never read here
//
// Commit: write into step-N.tmp, sync each file, write and sync the manifest, sync the folder, rename it to
// step-N, sync <dir>, replace LATEST. Only then are older checkpoints removed, each renamed to .tmp first, so
// that a half-removed one never looks like a damaged one. One process writes a <dir> at a time. That a rename is
// done or not done, whatever happens, is asked of the file system: ext4, XFS, Btrfs and ZFS give it.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collegium/io/fs.h"
#include "collegium/io/safetensors.h"

namespace collegium::io {

struct CheckpointData {
  int64_t step = 0;                  ///< at least 0
  std::vector<NamedTensor> weights;  ///< the model's tensors
  std::vector<NamedTensor> state;    ///< optimiser, balancers, averages
  nlohmann::json meta;               ///< numbers that are not finite come back as text, see dump_json
};

struct LoadedCheckpoint {
  CheckpointData data;
  Path folder;
  /// One sentence for each newer checkpoint that was passed over: the file, what is wrong with it, and which
  /// checkpoint is used instead.
  std::vector<std::string> warnings;
};

struct CheckpointInfo {
  int64_t step = 0;
  Path folder;
};

/// Commits `data` below `dir` (created if need be) and returns its folder. Keeps the newest `keep` >= 2 complete
/// checkpoints, removes older ones and what unfinished saves left behind. A checkpoint of the same step is
/// replaced; a damaged one of a later step stays. Completeness of older ones is judged by manifest and sizes,
/// without reading all their bytes again.
/// Throws an Error of kind io when a call to the file system fails: then the checkpoints committed before are
/// intact. Of kind refused when a good checkpoint of a later step is there (see remove_checkpoints_after).
/// Of kind usage for tensors that cannot be written, before anything is touched.
Path save_checkpoint(FileSystem& fs, const Path& dir, const CheckpointData& data, int64_t keep = 2);

/// The newest checkpoint whose files all match its manifest. Changes nothing.
/// Throws an Error of kind data when there is none; it lists what is wrong with each.
LoadedCheckpoint load_checkpoint(FileSystem& fs, const Path& dir);

/// The checkpoint of one step. Throws an Error of kind data when it is missing (lists the steps there are) or
/// damaged.
LoadedCheckpoint load_checkpoint_step(FileSystem& fs, const Path& dir, int64_t step);

/// Checkpoint folders below `dir`, newest first, damaged ones included; none when `dir` is not there.
std::vector<CheckpointInfo> list_checkpoints(FileSystem& fs, const Path& dir);

/// What is wrong with one checkpoint folder, one sentence a fault, each starting with the file; empty when every
/// file is there with the size and hash of the manifest.
std::vector<std::string> verify_checkpoint(FileSystem& fs, const Path& folder);

/// Removes the checkpoints of later steps: for a run that goes on from an earlier one on purpose.
void remove_checkpoints_after(FileSystem& fs, const Path& dir, int64_t step);

}  // namespace collegium::io
