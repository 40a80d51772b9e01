#include "cli/setting.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <unistd.h>

#include <array>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/built_from.h"
#include "collegium/base/text_table.h"
#include "collegium/recipe/machine.h"

namespace collegium::cli {
namespace {

bool has_option(const Arguments& arguments, std::string_view name) {
  for (const auto& option : arguments.command().options)
    if (option.name == name) return true;
  return false;
}

std::string utc_now() {
  const auto now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> out{};
  std::strftime(out.data(), out.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return out.data();
}

}  // namespace

at::Device parse_device(const std::string& name) {
  try {
    const at::Device device(name);
    if (device.is_cpu()) return device;
    if (device.is_cuda()) {
      const auto n = at::hasCUDA() ? static_cast<int64_t>(at::getNumGPUs()) : 0;
      require(n == 0 || device.index() < n, "--device ", name, ": this machine has ", n,
              n == 1 ? " device" : " devices", ", the last one is cuda:", n - 1);
      if (n > 0) {
        insist_on_repeatable_cuda();
        return device;
      }
      throw Error(ErrorKind::usage, text("--device ", name, ": this torch or this machine has no CUDA"),
                  "`collegium doctor` shows what there is");
    }
  } catch (const c10::Error&) {
  }
  throw Error(ErrorKind::usage, text("--device ", name, ": must be cpu, cuda or cuda:N"));
}

void apply_threads(const Arguments& arguments) {
  const auto wanted = has_option(arguments, "threads") ? arguments.integer("threads") : 0;
  require(wanted >= 0 && wanted <= 4096, "--threads must be in [0, 4096], got ", wanted);
  if (wanted > 0) return at::set_num_threads(static_cast<int>(wanted));
  if (!arguments.streams().environment("OMP_NUM_THREADS").empty()) return;  // what the user told OpenMP
  at::set_num_threads(static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
}

void keep_layer(const Arguments& arguments, nlohmann::json& layers) {
  if (!arguments.given("layer")) return;
  const auto wanted = arguments.integer("layer");
  auto only = nlohmann::json::array();
  std::vector<std::string> known;
  for (const auto& layer : layers) {
    const auto name = layer.value("name", std::string());
    known.push_back(layer["layer"].dump() + (name.starts_with("attention") ? text(" = ", name) : ""));
    if (layer["layer"] == wanted) only.push_back(layer);
  }
  require(!only.empty(), "--layer ", wanted, ": this layer has no experts (those with experts: ", join(known), ")");
  layers = std::move(only);
}

RunSetting run_setting(const Arguments& arguments, const InterruptFlag* interrupt, Progress* progress) {
  const auto& environment = arguments.streams().environment;
  RunSetting out;
  out.runs_root = has_option(arguments, "runs") ? arguments.text("runs") : "runs";
  out.data_paths =
      data::source_paths(environment("XDG_CACHE_HOME"), environment("HOME"), environment("COLLEGIUM_DATA"));
  out.data_paths.offline = has_option(arguments, "offline") && arguments.flag("offline");
  if (const auto python = environment("COLLEGIUM_PYTHON"); !python.empty()) out.data_paths.python = python;
  out.device = has_option(arguments, "device") ? parse_device(arguments.text("device")) : at::Device(at::kCPU);
  out.progress = progress;
  if (interrupt) out.is_interrupted = [interrupt] { return interrupt->raised(); };
  out.clock = steady_clock();
  out.now = utc_now;
  const auto from = built_from();
  out.git_commit = from.commit, out.code = from.code;
  return out;
}

io::Path run_folder(const Arguments& arguments, const std::string& word) {
  const io::Path path = word;
  std::error_code ignored;
  if (std::filesystem::exists(path / "config.toml", ignored))
    return std::filesystem::absolute(path.has_filename() ? path : path.parent_path()).lexically_normal();
  return io::RunStore(arguments.text("runs")).find(word).folder;
}

void require_folder_for(const Arguments& arguments, std::string_view name) {
  const auto folder = io::parent_of(arguments.text(name));
  if (!std::filesystem::is_directory(folder))
    throw Error(ErrorKind::io, text("--", name, " ", arguments.text(name), ": there is no folder ", folder.string()));
}

namespace {

// Permissions do not tell of read-only disks, nor of what is no disk: a file is made and taken away.
void try_to_write(const Arguments& arguments, std::string_view name, const io::Path& folder) {
  auto& fs = io::real_file_system();
  const auto probe = folder / text(".collegium-", ::getpid());
  try {
    io::write_bytes(fs, probe, {});
    fs.remove(probe);
  } catch (const Error& e) {
    throw Error(ErrorKind::io,
                text("--", name, " ", arguments.text(name), ": nothing can be written in ", folder.string()), e.hint());
  }
}

}  // namespace

void require_writable_file(const Arguments& arguments, std::string_view name) {
  require_folder_for(arguments, name);
  try_to_write(arguments, name, io::parent_of(arguments.text(name)));
}

void require_writable_folder(const Arguments& arguments, std::string_view name) {
  const io::Path folder = arguments.text(name);
  try {
    io::real_file_system().create_directories(folder);
  } catch (const Error& e) {
    throw Error(ErrorKind::io, text("--", name, ": ", e.what()), e.hint());
  }
  try_to_write(arguments, name, folder);
}

void show_warnings(const Arguments& arguments, const std::vector<std::string>& warnings) {
  for (const auto& warning : warnings) arguments.out().warn(warning);
}

std::string count_text(double count) {
  if (count >= 1e12) return fixed_text(count / 1e12, 2) + "T";
  if (count >= 1e9) return fixed_text(count / 1e9, 2) + "G";
  if (count >= 1e6) return fixed_text(count / 1e6, 2) + "M";
  if (count >= 1e4) return fixed_text(count / 1e3, 1) + "k";
  return fixed_text(count, 0);
}

}  // namespace collegium::cli
