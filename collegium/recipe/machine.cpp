#include "collegium/recipe/machine.h"

#include <ATen/Context.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "collegium/base/error.h"
#include "collegium/io/env.h"
#include "collegium/kernels/cuda_driver.h"

namespace collegium {

nlohmann::json environment_on(const c10::Device& device) {
  auto out = io::environment();
  out["device"] = device.str();
  if (!device.is_cuda()) return out;
  const auto name = kernels::cuda_device_name(kernels::cuda_index(device));
  if (name) out["device"] = text(device.str(), ", ", *name);
  return out;
}

std::string machine_class(const nlohmann::json& environment) {
  // Runs of before devices were recorded were all made on processors.
  const auto device = environment.value("device", "cpu");
  if (device != "cpu") return device;
  const auto cpu = environment.value("cpu", nlohmann::json::object());
  const auto threads = environment.value("threads", 0);
  return text(cpu.value("model", "?"), ", ", threads, threads == 1 ? " thread" : " threads");
}

void insist_on_repeatable_cuda() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Memory that nothing wrote needs no filling for that.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

}  // namespace collegium
