#include "cli/bench/isas.h"

#include <algorithm>

#include "collegium/base/error.h"
#include "collegium/kernels/isa.h"

namespace collegium::cli {

std::vector<std::string> wanted_isas(const std::string& option) {
  if (option.empty()) return {std::string(kernels::chosen_isa().name)};
  std::vector<std::string> names, all;
  const kernels::LoopTables* before = nullptr;
  for (const auto& isa : kernels::isas()) {
    if (!isa.supported()) continue;
    names.emplace_back(isa.name);
    if (isa.name == "plain") continue;
    if (isa.loops == before) all.pop_back();
    before = isa.loops;
    all.emplace_back(isa.name);
  }
  if (option == "all") return all.empty() ? names : all;
  if (std::find(names.begin(), names.end(), option) != names.end()) return {option};
  std::vector<std::string> known = {"all"};
  for (const auto& isa : kernels::isas()) known.emplace_back(isa.name);
  const auto near = nearest(option, known);
  require(near != option, "--isa ", option, ": this processor lacks it (available here: ", join(names), ")");
  fail(ErrorKind::usage, "--isa ", option, ": unknown instruction set",
       near.empty() ? "" : text("; did you mean '", near, "'?"), " (available here: all, ", join(names), ")");
}

Variables isa_variables(std::string_view isa) {
  Variables out = {{"COLLEGIUM_ISA", std::string(isa)}};
  const auto hold = [&](const char* aten, const char* onednn, const char* mkl) {
    out.insert(out.end(),
               {{"ATEN_CPU_CAPABILITY", aten}, {"ONEDNN_MAX_CPU_ISA", onednn}, {"MKL_ENABLE_INSTRUCTIONS", mkl}});
  };
  if (isa == "plain") hold("default", "SSE41", "SSE4_2");
  if (isa == "avx2") hold("avx2", "AVX2", "AVX2");
  if (isa == "avx512") hold("avx512", "AVX512_CORE", "AVX512");
  return out;  // the last set is the processor's best: nothing is held back
}

std::string types_with(std::string_view isa, const std::string& wish) {
  return wish == "all" && isa == "avx2" ? "float32" : wish;
}

bool runs_with(std::string_view isa, const Environment& environment) {
  if (kernels::chosen_isa().name != isa) return false;
  for (const auto& [name, value] : isa_variables(isa))
    if (name != "COLLEGIUM_ISA" && environment(name) != value) return false;
  return true;
}

}  // namespace collegium::cli
