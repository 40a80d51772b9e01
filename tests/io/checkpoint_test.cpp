#include "collegium/io/checkpoint.h"

#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "collegium/base/random.h"
#include "tests/io/caught.h"
#include "tests/io/faulty_fs.h"
#include "tests/io/temp_folder.h"

using namespace collegium;
using namespace collegium::io;
using namespace collegium::test;

namespace {

const Path kDir = "/run/checkpoints";

/// Data that differs in every part from that of every other step.
CheckpointData data_of(int64_t step, int64_t variant = 0) {
  const auto value = static_cast<double>(step * 10 + variant);
  return {.step = step,
          .weights = {{"w", at::full({2, 3}, value, at::kFloat)}, {"e", at::full({2}, value, at::kBFloat16)}},
          .state = {{"m", at::full({4}, value / 3, at::kDouble)}},
          .meta = {{"cursor", step * 7}, {"variant", variant}, {"loss", value / 7}}};
}

bool is_same(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto &x = a[i].tensor, &y = b[i].tensor;
    if (a[i].name != b[i].name || x.scalar_type() != y.scalar_type() || x.sizes() != y.sizes()) return false;
    if (std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes())) return false;
  }
  return true;
}

bool is_same(const CheckpointData& a, const CheckpointData& b) {
  return a.step == b.step && is_same(a.weights, b.weights) && is_same(a.state, b.state) && a.meta == b.meta;
}

/// A file system on which /run is durable, with the checkpoints of these steps.
std::unique_ptr<FaultyFs> fs_with(const std::vector<int64_t>& steps) {
  auto fs = std::make_unique<FaultyFs>();
  create_durable_directories(*fs, "/run");
  for (const auto step : steps) save_checkpoint(*fs, kDir, data_of(step));
  fs->disarm();
  return fs;
}

std::vector<int64_t> steps_in(FileSystem& fs) {
  std::vector<int64_t> out;
  for (const auto& info : list_checkpoints(fs, kDir)) out.push_back(info.step);
  return out;
}

/// One scenario: what is there, and what is saved on top.
struct Scenario {
  std::vector<int64_t> before;
  CheckpointData next;
  CheckpointData fallback;  ///< what must still be there when the save did not get through
};

std::vector<Scenario> scenarios() {
  return {{{10, 20}, data_of(30), data_of(20)},  // an old one goes
          {{20}, data_of(30), data_of(20)},      // nothing goes
          {{20}, data_of(20, 5), data_of(20)}};  // the only one is replaced
}

int64_t count_calls(const Scenario& scenario) {
  auto fs = fs_with(scenario.before);
  save_checkpoint(*fs, kDir, scenario.next);
  return fs->calls();
}

/// Loads what is left: it must be the new or the old checkpoint, whole, and the next save must work and last.
/// Returns whether it is the new one.
bool check_survivor(FaultyFs& fs, const Scenario& scenario, const std::string& where) {
  const auto loaded = load_checkpoint(fs, kDir);
  const bool is_new = is_same(loaded.data, scenario.next);
  if (!is_new && !is_same(loaded.data, scenario.fallback)) FAIL_CHECK(where, ": neither old nor new");
  if (!verify_checkpoint(fs, loaded.folder).empty()) FAIL_CHECK(where, ": does not verify");

  const auto after = data_of(40);
  save_checkpoint(fs, kDir, after);
  if (!is_same(load_checkpoint(fs, kDir).data, after)) FAIL_CHECK(where, ": the next save was lost");
  for (const auto& name : fs.list(kDir))
    if (name.ends_with(".tmp") || name.ends_with(".old")) FAIL_CHECK(where, ": left over: ", name);
  return is_new;
}

}  // namespace

TEST_CASE("a checkpoint comes back bitwise from a real disk") {
  TempFolder temp;
  const auto dir = temp / "run/checkpoints";
  auto data = data_of(120);
  data.meta["best"] = std::numeric_limits<double>::infinity();
  const auto folder = save_checkpoint(real_file_system(), dir, data);
  CHECK(folder == dir / "step-00000120");
  CHECK(real_file_system().list(folder) ==
        std::vector<std::string>{"manifest.json", "meta.json", "state.safetensors", "weights.safetensors"});
  CHECK(read_text(real_file_system(), dir / "LATEST") == "step-00000120\n");
  data.meta["best"] = "inf";
  const auto loaded = load_checkpoint(real_file_system(), dir);
  CHECK(is_same(loaded.data, data));
  CHECK(loaded.folder == folder);
  CHECK(loaded.warnings.empty());
  CHECK(verify_checkpoint(real_file_system(), folder.string() + "/").empty());
  CHECK(SafetensorsFile(real_file_system(), folder / "weights.safetensors").metadata() ==
        Metadata{{"format", "pt"}, {"step", "120"}});
}

TEST_CASE("the newest are kept, older ones and left-overs go, strangers stay") {
  auto fs = fs_with({});
  fs->create_directories(kDir / "step-00000001.tmp");
  fs->create_directories(kDir / "notes");
  fs->create_directories(kDir / "step-7");
  write_bytes(*fs, kDir / "LATEST.tmp", as_bytes("x"));
  for (const int64_t step : {0, 5, 9, 100, 123456789}) save_checkpoint(*fs, kDir, data_of(step), 3);
  CHECK(steps_in(*fs) == std::vector<int64_t>{123456789, 100, 9});
  CHECK(fs->list(kDir) ==
        std::vector<std::string>{"LATEST", "notes", "step-00000009", "step-00000100", "step-123456789", "step-7"});
  CHECK(is_same(load_checkpoint_step(*fs, kDir, 100).data, data_of(100)));
  CHECK(caught([&] { load_checkpoint_step(*fs, kDir, 7); }).message ==
        "no checkpoint of step 7 in /run/checkpoints (there are: 123456789, 100, 9)");
  fs->lose_power(Survives::nothing);
  CHECK(steps_in(*fs) == std::vector<int64_t>{123456789, 100, 9});
}

TEST_CASE("a save below a later checkpoint is refused until the later ones are removed") {
  auto fs = fs_with({10, 20, 30});
  const auto refused = caught([&] { save_checkpoint(*fs, kDir, data_of(25)); });
  CHECK(refused.kind == ErrorKind::refused);
  CHECK(refused.message == "cannot save step 25 in /run/checkpoints: it holds the later checkpoint step-00000030");
  CHECK(steps_in(*fs) == std::vector<int64_t>{30, 20});
  remove_checkpoints_after(*fs, kDir, 20);
  CHECK(read_text(*fs, kDir / "LATEST") == "step-00000020\n");
  save_checkpoint(*fs, kDir, data_of(25));
  CHECK(steps_in(*fs) == std::vector<int64_t>{25, 20});
  remove_checkpoints_after(*fs, kDir, 0);
  CHECK(steps_in(*fs).empty());
  CHECK_FALSE(fs->exists(kDir / "LATEST"));
}

TEST_CASE("wrong arguments touch nothing") {
  auto fs = fs_with({20});
  CHECK(caught([&] { save_checkpoint(*fs, kDir, data_of(30), 1); }).message ==
        "checkpoints to keep: must be at least 2, got 1");
  CHECK(caught([&] { save_checkpoint(*fs, kDir, data_of(-1)); }).kind == ErrorKind::usage);
  auto twice = data_of(30);
  twice.state.push_back(twice.state.front());
  CHECK(caught([&] { save_checkpoint(*fs, kDir, twice); }).has("two tensors are called 'm'"));
  CHECK(fs->calls() == 0);
  CHECK(caught([&] { load_checkpoint(*fs, "/nowhere"); }).message == "no checkpoint in /nowhere");
  CHECK(list_checkpoints(*fs, "/nowhere").empty());
}

TEST_CASE("a kill at any call of a save leaves the old checkpoint or the new one") {
  for (const auto& scenario : scenarios()) {
    const auto n_calls = count_calls(scenario);
    CHECK(n_calls > 15);
    int64_t n_new = 0;
    for (int64_t k = 0; k < n_calls; ++k)
      for (const auto done : {Done::nothing, Done::half, Done::all}) {
        auto fs = fs_with(scenario.before);
        fs->arm(k, Fault::crash, done);
        CHECK_THROWS_AS(save_checkpoint(*fs, kDir, scenario.next), Crash);
        fs->lose_power(Survives::all);
        n_new += check_survivor(*fs, scenario, text("kill at call ", k));
      }
    CHECK(n_new > 0);
    CHECK(n_new < 3 * n_calls);
  }
}

TEST_CASE("a power cut at any call of a save leaves the old checkpoint or the new one") {
  for (const auto& scenario : scenarios()) {
    const auto n_calls = count_calls(scenario);
    for (int64_t k = 0; k <= n_calls; ++k)  // the last one cuts after the save
      for (const auto done : {Done::nothing, Done::half})
        for (uint64_t seed = 0; seed < 16; ++seed) {
          auto fs = fs_with(scenario.before);
          fs->arm(k, Fault::crash, done);
          bool is_saved = false;
          try {
            save_checkpoint(*fs, kDir, scenario.next);
            is_saved = true;
          } catch (const Crash&) {
          }
          CHECK(is_saved == (k == n_calls));
          fs->lose_power(seed == 0 ? Survives::nothing : Survives::random, Random(seed).bits(static_cast<uint64_t>(k)));
          const bool is_new = check_survivor(*fs, scenario, text("power cut at call ", k, ", seed ", seed));
          if (is_saved) CHECK(is_new);
        }
  }
}

TEST_CASE("a power cut while saving, and another while cleaning up after it") {
  const Scenario scenario{{20}, data_of(20, 5), data_of(20)};
  const auto n_calls = count_calls(scenario);
  for (int64_t first = 0; first < n_calls; ++first)
    for (int64_t second = 0; second < n_calls + 10; ++second) {
      auto fs = fs_with(scenario.before);
      fs->arm(first, Fault::crash);
      CHECK_THROWS_AS(save_checkpoint(*fs, kDir, scenario.next), Crash);
      fs->lose_power(Survives::random, static_cast<uint64_t>(first * 1000 + second));
      fs->arm(second, Fault::crash, Done::half);
      try {
        save_checkpoint(*fs, kDir, scenario.next);
      } catch (const Crash&) {
      }
      fs->lose_power(Survives::random, static_cast<uint64_t>(second * 1000 + first));
      check_survivor(*fs, scenario, text("cuts at calls ", first, " and ", second));
    }
}

// A kill loses nothing and makes nothing durable, so the clean-up sees names that a power cut may yet take back.
TEST_CASE("a kill between the renames of a replacement, then a power cut while cleaning up") {
  const Scenario scenario{{20}, data_of(20, 5), data_of(20)};
  const auto n_calls = count_calls(scenario);
  int64_t n_tried = 0;
  for (int64_t first = 0; first < n_calls; ++first)
    for (int64_t second = 0; second < n_calls + 10; ++second)
      for (uint64_t seed = 0; seed < 60; ++seed) {
        auto fs = fs_with(scenario.before);
        fs->arm(first, Fault::crash);
        CHECK_THROWS_AS(save_checkpoint(*fs, kDir, scenario.next), Crash);
        fs->disarm();
        if (!fs->exists(kDir / "step-00000020.old")) break;
        ++n_tried;
        fs->arm(second, Fault::crash);
        try {
          save_checkpoint(*fs, kDir, scenario.next);
        } catch (const Crash&) {
        }
        fs->lose_power(Survives::random, seed);
        check_survivor(*fs, scenario, text("kill at call ", first, ", cut at call ", second, ", seed ", seed));
      }
  CHECK(n_tried > 1000);
}

TEST_CASE("a full disk or a fault at any call is a clean Error, and what was committed is intact") {
  for (const auto& scenario : scenarios()) {
    const auto n_calls = count_calls(scenario);
    for (const auto fault : {Fault::no_space, Fault::io_error})
      for (const bool sticky : {false, true})
        for (const auto done : {Done::nothing, Done::half, Done::all})
          for (int64_t k = 0; k < n_calls; ++k) {
            auto fs = fs_with(scenario.before);
            fs->arm(k, fault, done, sticky);
            const auto error = caught([&] { save_checkpoint(*fs, kDir, scenario.next); });
            CHECK(fs->has_failed());
            // Only a look at an older checkpoint, to see if it is one of those to keep, may go wrong in silence.
            if (error.message != "no error") {
              CHECK(error.kind == ErrorKind::io);
              CHECK(error.has("/run"));
              CHECK(error.has(fault == Fault::no_space ? "No space left" : "Input/output error"));
              CHECK_FALSE(error.hint.empty());
            }
            fs->disarm();
            const bool is_new = check_survivor(*fs, scenario, text("fault at call ", k));
            if (error.message == "no error") CHECK(is_new);
          }
  }
}

TEST_CASE("each flipped bit, cut and missing file is found, named, and the checkpoint before is used") {
  auto fs = fs_with({10, 20});
  const auto newest = kDir / "step-00000020";
  for (const std::string name : {"manifest.json", "meta.json", "state.safetensors", "weights.safetensors"}) {
    const auto path = newest / name;
    const auto good = read_bytes(*fs, path);
    const auto check_found = [&](std::string_view what, const std::string& where) {
      const auto loaded = load_checkpoint(*fs, kDir);
      const bool is_named = loaded.warnings.size() == 1 && loaded.warnings[0].find(path.string() + ": ") == 0 &&
                            loaded.warnings[0].find(what) != std::string::npos &&
                            loaded.warnings[0].ends_with("; using /run/checkpoints/step-00000010 instead");
      if (!is_named || !is_same(loaded.data, data_of(10))) FAIL_CHECK(name, ": ", where);
    };
    for (uint64_t bit = 0; bit < good.size() * 8; ++bit) {
      fs->flip_bit(path, bit);
      check_found("", text("bit ", bit));
      fs->flip_bit(path, bit);
    }
    for (size_t size = 0; size < good.size(); size += 1 + size / 8) {
      fs->truncate(path, size);
      check_found(name == "manifest.json" ? "" : "the manifest says", text("cut at ", size));
      write_bytes(*fs, path, good);
    }
    fs->remove(path);
    check_found("is missing", "missing");
    write_bytes(*fs, path, good);
    CHECK(is_same(load_checkpoint(*fs, kDir).data, data_of(20)));
  }
}

TEST_CASE("several faults are all told; with none good the Error lists them") {
  auto fs = fs_with({10, 20});
  fs->remove(kDir / "step-00000020/meta.json");
  fs->truncate(kDir / "step-00000020/state.safetensors", 9);
  fs->flip_bit(kDir / "step-00000010/weights.safetensors", 1500);
  CHECK(verify_checkpoint(*fs, kDir / "step-00000020").size() == 2);
  const auto none = caught([&] { load_checkpoint(*fs, kDir); });
  CHECK(none.kind == ErrorKind::data);
  CHECK(
      none.has("no usable checkpoint in /run/checkpoints:\n  /run/checkpoints/step-00000020/meta.json: is missing; "));
  CHECK(none.has("step-00000020/state.safetensors: has 9 bytes, the manifest says"));
  CHECK(none.has("step-00000010/weights.safetensors: its bytes differ from what was written"));
  CHECK_FALSE(none.hint.empty());
  CHECK(caught([&] { load_checkpoint_step(*fs, kDir, 20); }).kind == ErrorKind::data);
}

TEST_CASE("damaged checkpoints do not count as kept, and saving goes on over them") {
  auto fs = fs_with({10, 20});
  fs->truncate(kDir / "step-00000020/weights.safetensors", 9);
  save_checkpoint(*fs, kDir, data_of(15));  // resumed from 10
  CHECK(steps_in(*fs) == std::vector<int64_t>{20, 15, 10});
  save_checkpoint(*fs, kDir, data_of(20));
  CHECK(steps_in(*fs) == std::vector<int64_t>{20, 15});
  CHECK(is_same(load_checkpoint(*fs, kDir).data, data_of(20)));
  CHECK(load_checkpoint(*fs, kDir).warnings.empty());
}

TEST_CASE("a manifest of a newer format or of another step is not believed") {
  auto fs = fs_with({10, 20});
  const auto path = kDir / "step-00000020/manifest.json";
  auto manifest = read_text(*fs, path);
  const auto at = manifest.find("\"format\": 1");
  REQUIRE(at != std::string::npos);
  manifest.replace(at, 11, "\"format\": 2");
  write_bytes(*fs, path, as_bytes(manifest));
  CHECK(load_checkpoint(*fs, kDir).warnings.at(0).find("has format 2; this Collegium knows format 1") !=
        std::string::npos);
  remove_checkpoints_after(*fs, kDir, 10);
  fs->rename(kDir / "step-00000010", kDir / "step-00000011");
  CHECK(caught([&] { load_checkpoint(*fs, kDir); }).has("step-00000011/manifest.json: is damaged"));
  CHECK(verify_checkpoint(*fs, kDir).at(0) == "/run/checkpoints: is not called step-N, as a checkpoint is");
}

TEST_CASE("kill -9 at random moments on a real disk never loses a committed checkpoint") {
  TempFolder temp;
  const auto dir = temp / "checkpoints";
  const Random random(11);
  save_checkpoint(real_file_system(), dir, data_of(1));
  int64_t last = 1;
  for (uint64_t round = 0; round < 20; ++round) {
    int pipes[2];
    REQUIRE(::pipe(pipes) == 0);
    const auto child = ::fork();
    if (child == 0) {
      for (int64_t step = last + 1;; ++step) {
        save_checkpoint(real_file_system(), dir, data_of(step));
        if (::write(pipes[1], &step, sizeof step) != sizeof step) ::_exit(1);
      }
    }
    REQUIRE(child > 0);
    ::close(pipes[1]);
    int64_t committed = last;
    for (auto wanted = 1 + random.below(round, 3); wanted > 0; --wanted)
      REQUIRE(::read(pipes[0], &committed, sizeof committed) == sizeof committed);
    ::usleep(static_cast<useconds_t>(random.below(100 + round, 4000)));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    while (::read(pipes[0], &committed, sizeof committed) == sizeof committed) {
    }
    ::close(pipes[0]);
    const auto loaded = load_checkpoint(real_file_system(), dir);
    CHECK(loaded.data.step >= committed);
    CHECK(is_same(loaded.data, data_of(loaded.data.step)));
    CHECK(loaded.warnings.empty());
    last = loaded.data.step;
  }
}
