#include "collegium/io/checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>

#include "collegium/io/json.h"
#include "collegium/io/sha256.h"

namespace collegium::io {
namespace {

constexpr int64_t kManifestFormat = 1;
constexpr std::string_view kWeights = "weights.safetensors";
constexpr std::string_view kState = "state.safetensors";
constexpr std::string_view kMeta = "meta.json";
constexpr std::string_view kManifest = "manifest.json";
constexpr std::string_view kLatest = "LATEST";
constexpr std::array<std::string_view, 3> kFiles = {kWeights, kState, kMeta};
constexpr uint64_t kManifestCap = 1 << 20;

// step-N.tmp is unfinished or on its way out. step-N.old was good and makes room for another one of its step:
// when a crash falls between the two renames it is the checkpoint of step N.
constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kTmpSuffix = ".tmp";
constexpr std::string_view kOldSuffix = ".old";

struct StepFolder {
  int64_t step = 0;
  bool is_old = false;
  std::string name;
};

struct FileRecord {
  uint64_t bytes = 0;
  std::string sha256;
};

using Manifest = std::map<std::string, FileRecord, std::less<>>;

std::string step_name(int64_t step) {
  auto digits = std::to_string(step);
  if (digits.size() < 8) digits.insert(0, 8 - digits.size(), '0');
  return std::string(kStepPrefix) + digits;
}

std::optional<StepFolder> parse_step_folder(const std::string& name) {
  StepFolder out{.name = name};
  std::string_view rest = name;
  out.is_old = rest.ends_with(kOldSuffix);
  if (out.is_old) rest.remove_suffix(kOldSuffix.size());
  if (!rest.starts_with(kStepPrefix)) return {};
  const auto digits = rest.substr(kStepPrefix.size());
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), out.step);
  // The way back must give the same name: nothing like step-1 or step--0000007.
  if (parsed.ec != std::errc() || out.step < 0 || step_name(out.step) != rest) return {};
  return out;
}

/// Newest first; of one step the finished folder before the .old one.
std::vector<StepFolder> step_folders(FileSystem& fs, const Path& dir) {
  std::vector<StepFolder> out;
  if (!fs.exists(dir)) return out;
  for (const auto& name : fs.list(dir))
    if (auto folder = parse_step_folder(name)) out.push_back(std::move(*folder));
  std::sort(out.begin(), out.end(),
            [](const auto& a, const auto& b) { return a.step != b.step ? a.step > b.step : a.is_old < b.is_old; });
  return out;
}

std::string manifest_text(int64_t step, const Manifest& manifest) {
  auto files = nlohmann::json::object();
  for (const auto& [name, record] : manifest) files[name] = {{"bytes", record.bytes}, {"sha256", record.sha256}};
  nlohmann::json out = {{"format", kManifestFormat}, {"step", step}, {"files", files}};
  // Its own hash tells a damaged manifest from damaged files.
  out["sha256"] = sha256_hex(as_bytes(dump_json(out)));
  return dump_json(out, 2) + "\n";
}

/// The manifest of `folder`; an Error of kind data or io says what is wrong with it.
Manifest read_manifest(FileSystem& fs, const Path& folder) {
  const auto path = folder / kManifest;
  const auto step = parse_step_folder((folder.has_filename() ? folder : folder.parent_path()).filename().string());
  if (!step) fail(ErrorKind::data, folder.string(), ": is not called step-N, as a checkpoint is");
  if (!fs.exists(path)) fail(ErrorKind::data, path.string(), ": is missing");
  if (fs.size(path) > kManifestCap) fail(ErrorKind::data, path.string(), ": is too large to be a manifest");
  const auto written = read_text(fs, path);
  const auto parsed = parse_json(written, path.string(), {.depth = 4, .list_elements = 0});
  const auto damaged = [&] { return Error(ErrorKind::data, text(path.string(), ": is damaged")); };
  if (!parsed.is_object() || !parsed.contains("format") || !parsed["format"].is_number_unsigned()) throw damaged();
  if (parsed["format"].get<uint64_t>() > static_cast<uint64_t>(kManifestFormat))
    throw Error(ErrorKind::data,
                text(path.string(), ": has format ", parsed["format"].get<uint64_t>(), "; this Collegium knows format ",
                     kManifestFormat),
                "update Collegium to read it");
  Manifest out;
  try {
    const auto& files = parsed.at("files");
    for (const auto name : kFiles) {
      const auto& record = files.at(std::string(name));
      out[std::string(name)] = {record.at("bytes").get<uint64_t>(), record.at("sha256").get<std::string>()};
    }
  } catch (const nlohmann::json::exception&) {
    throw damaged();
  }
  // Written again it must come out the same: so no byte of it goes unchecked.
  if (manifest_text(step->step, out) != written) throw damaged();
  return out;
}

enum class Check { sizes, hashes };

std::vector<std::string> faults_of(FileSystem& fs, const Path& folder, Check check) {
  Manifest manifest;
  try {
    manifest = read_manifest(fs, folder);
  } catch (const Error& e) {
    return {e.what()};
  }
  std::vector<std::string> faults;
  for (const auto& [name, record] : manifest) {
    const auto path = folder / name;
    try {
      if (!fs.exists(path)) {
        faults.push_back(path.string() + ": is missing");
        continue;
      }
      const auto size = fs.size(path);
      if (size != record.bytes)
        faults.push_back(text(path.string(), ": has ", size, " bytes, the manifest says ", record.bytes));
      else if (check == Check::hashes && sha256_hex_of_file(fs, path) != record.sha256)
        faults.push_back(path.string() + ": its bytes differ from what was written (SHA-256 does not match)");
    } catch (const Error& e) {
      faults.push_back(e.what());
    }
  }
  return faults;
}

bool is_good(FileSystem& fs, const Path& folder, Check check) {
  return faults_of(fs, folder, check).empty();
}

/// Takes a folder away so that no reader ever sees a part of it under its name.
void remove_step(FileSystem& fs, const Path& dir, const StepFolder& folder) {
  const auto leaving = dir / (folder.name + std::string(kTmpSuffix));
  fs.remove_all(leaving);
  fs.rename(dir / folder.name, leaving);
  fs.sync_directory(dir);
  fs.remove_all(leaving);
}

/// Settles which of step-N and step-N.old is the checkpoint of step N, after a crash between two renames.
void settle_old(FileSystem& fs, const Path& dir, const StepFolder& old) {
  const StepFolder successor{old.step, false, step_name(old.step)};
  if (fs.exists(dir / successor.name)) {
    const bool keep_old =
        !is_good(fs, dir / successor.name, Check::hashes) && is_good(fs, dir / old.name, Check::hashes);
    fs.sync_directory(dir);  // the names seen here must be durable before one of them goes
    remove_step(fs, dir, keep_old ? successor : old);
    if (!keep_old) return;
  }
  fs.rename(dir / old.name, dir / successor.name);
  fs.sync_directory(dir);
}

void clean_up(FileSystem& fs, const Path& dir) {
  for (const auto& name : fs.list(dir)) {
    const bool is_ours = name.starts_with(kStepPrefix) || name.starts_with(kLatest);
    if (is_ours && name.ends_with(kTmpSuffix)) fs.remove_all(dir / name);
  }
  for (const auto& folder : step_folders(fs, dir))
    if (folder.is_old) settle_old(fs, dir, folder);
}

void refuse_later_steps(FileSystem& fs, const Path& dir, int64_t step) {
  for (const auto& folder : step_folders(fs, dir)) {
    if (folder.step <= step || !is_good(fs, dir / folder.name, Check::hashes)) continue;
    throw Error(ErrorKind::refused,
                text("cannot save step ", step, " in ", dir.string(), ": it holds the later checkpoint ", folder.name),
                "go on from that one, save into another folder, or remove the later checkpoints first");
  }
}

void write_step(FileSystem& fs, const Path& folder, const CheckpointData& data, const SafetensorsImage& weights,
                const SafetensorsImage& state, const std::string& meta) {
  fs.create_directories(folder);
  Manifest manifest;
  const auto put = [&](std::string_view name, std::span<const Bytes> parts) {
    Sha256 hash;
    uint64_t bytes = 0;
    for (const auto part : parts) {
      hash.update(part);
      bytes += part.size();
    }
    fs.write(folder / name, parts);
    fs.sync_file(folder / name);
    manifest[std::string(name)] = {bytes, hash.hex()};
  };
  const auto meta_bytes = as_bytes(meta);
  put(kWeights, weights.parts);
  put(kState, state.parts);
  put(kMeta, std::span(&meta_bytes, 1));
  write_bytes(fs, folder / kManifest, as_bytes(manifest_text(data.step, manifest)));
  fs.sync_file(folder / kManifest);
  fs.sync_directory(folder);
}

void commit(FileSystem& fs, const Path& dir, const Path& unfinished, const std::string& name) {
  const auto final_folder = dir / name, old_folder = dir / (name + std::string(kOldSuffix));
  const bool replaces = fs.exists(final_folder);
  if (replaces) fs.rename(final_folder, old_folder);
  fs.rename(unfinished, final_folder);
  fs.sync_directory(dir);
  if (replaces) remove_step(fs, dir, {0, true, old_folder.filename().string()});
}

/// Removes what is older than the newest `keep` good ones. Later ones are damaged, or the save had been refused;
/// they stay for a person to look at.
void remove_surplus(FileSystem& fs, const Path& dir, int64_t step, int64_t keep) {
  int64_t kept = 0;
  for (const auto& folder : step_folders(fs, dir)) {
    if (folder.step > step) continue;
    if (kept == keep)
      remove_step(fs, dir, folder);
    else if (folder.step == step || is_good(fs, dir / folder.name, Check::sizes))
      ++kept;
  }
}

CheckpointData read_step(FileSystem& fs, const Path& folder, int64_t step) {
  const auto meta_path = folder / kMeta;
  return {.step = step,
          .weights = SafetensorsFile(fs, folder / kWeights).read_all(),
          .state = SafetensorsFile(fs, folder / kState).read_all(),
          .meta = parse_json(read_text(fs, meta_path), meta_path.string())};
}

/// The first good one of `folders`, which are of `dir` and newest first.
LoadedCheckpoint load_first_good(FileSystem& fs, const Path& dir, const std::vector<StepFolder>& folders) {
  std::vector<std::string> faults;
  for (const auto& candidate : folders) {
    const auto folder = dir / candidate.name;
    auto found = faults_of(fs, folder, Check::hashes);
    if (found.empty()) {
      try {
        LoadedCheckpoint out{read_step(fs, folder, candidate.step), folder, {}};
        for (const auto& fault : faults) out.warnings.push_back(fault + "; using " + folder.string() + " instead");
        return out;
      } catch (const Error& e) {
        found.push_back(e.what());
      }
    }
    faults.push_back(join(found, "; "));
  }
  throw Error(ErrorKind::data, text("no usable checkpoint in ", dir.string(), ":\n  ", join(faults, "\n  ")),
              "start a new run, or put back a copy of one of these folders");
}

}  // namespace

Path save_checkpoint(FileSystem& fs, const Path& dir, const CheckpointData& data, int64_t keep) {
  require(keep >= 2, "checkpoints to keep: must be at least 2, got ", keep);
  require(data.step >= 0, "checkpoint step: must be at least 0, got ", data.step);
  const Metadata metadata = {{"format", "pt"}, {"step", std::to_string(data.step)}};
  const auto weights = lay_out_safetensors(data.weights, metadata);
  const auto state = lay_out_safetensors(data.state, metadata);
  const auto meta = dump_json(data.meta, 2) + "\n";
  parse_json(meta, "checkpoint meta");  // what could not be read again must not be written

  create_durable_directories(fs, dir);
  clean_up(fs, dir);
  refuse_later_steps(fs, dir, data.step);

  const auto name = step_name(data.step);
  const auto unfinished = dir / (name + std::string(kTmpSuffix));
  try {
    write_step(fs, unfinished, data, weights, state, meta);
  } catch (const Error&) {
    try {
      fs.remove_all(unfinished);  // gives a full disk its room back
    } catch (const Error&) {      // the first error is the one to report
    }
    throw;
  }
  commit(fs, dir, unfinished, name);
  write_atomically(fs, dir / kLatest, as_bytes(name + "\n"));
  remove_surplus(fs, dir, data.step, keep);
  return dir / name;
}

LoadedCheckpoint load_checkpoint(FileSystem& fs, const Path& dir) {
  const auto folders = step_folders(fs, dir);
  if (folders.empty())
    throw Error(ErrorKind::data, "no checkpoint in " + dir.string(), "check the folder, or start a new run");
  return load_first_good(fs, dir, folders);
}

LoadedCheckpoint load_checkpoint_step(FileSystem& fs, const Path& dir, int64_t step) {
  std::vector<StepFolder> wanted;
  std::vector<std::string> known;
  for (const auto& folder : step_folders(fs, dir)) {
    if (!folder.is_old) known.push_back(std::to_string(folder.step));
    if (folder.step == step) wanted.push_back(folder);
  }
  if (wanted.empty())
    fail(ErrorKind::data, "no checkpoint of step ", step, " in ", dir.string(),
         known.empty() ? "" : " (there are: " + join(known) + ")");
  return load_first_good(fs, dir, wanted);
}

std::vector<CheckpointInfo> list_checkpoints(FileSystem& fs, const Path& dir) {
  std::vector<CheckpointInfo> out;
  for (const auto& folder : step_folders(fs, dir))
    if (out.empty() || out.back().step != folder.step) out.push_back({folder.step, dir / folder.name});
  return out;
}

std::vector<std::string> verify_checkpoint(FileSystem& fs, const Path& folder) {
  return faults_of(fs, folder, Check::hashes);
}

void remove_checkpoints_after(FileSystem& fs, const Path& dir, int64_t step) {
  bool is_any_gone = false;
  for (const auto& folder : step_folders(fs, dir))
    if (folder.step > step) remove_step(fs, dir, folder), is_any_gone = true;
  if (!is_any_gone) return;
  // LATEST must not name what is gone.
  if (const auto left = list_checkpoints(fs, dir); left.empty())
    fs.remove_all(dir / kLatest);
  else
    write_atomically(fs, dir / kLatest, as_bytes(left.front().folder.filename().string() + "\n"));
}

}  // namespace collegium::io
