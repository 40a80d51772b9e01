// What a run was made on, for its folder, for evidence and for tables.
#pragma once
#include <c10/core/Device.h>

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace collegium {

/// io::environment() and "device": "cpu", or "cuda:0" with the device's name where the driver tells it.
nlohmann::json environment_on(const c10::Device& device);

/// The machine class of such an environment: the processor and its threads, or the device that trained.
std::string machine_class(const nlohmann::json& environment);

/// Tells torch, for the whole process, to run only algorithms whose results on a CUDA device repeat to the bit, so that
/// a resumed run repeats an uninterrupted one there, too. For programs of their own, not for libraries.
void insist_on_repeatable_cuda();

}  // namespace collegium
