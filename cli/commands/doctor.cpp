// `collegium doctor`: what this machine has, and what to mend.
#include "cli/doctor.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace collegium::cli {
namespace {

constexpr Example kDoctorExamples[] = {{"collegium doctor", "look at this machine"},
                                       {"collegium doctor --json", "the same for a bug report or a script"}};

int run_doctor(const Arguments& arguments) {
  auto& out = arguments.out();
  const auto facts = examine(arguments.streams().environment, out.terminal());
  const auto problems = problems_of(facts);
  out.block(doctor_text(facts, problems, out.table_style()));
  out.json(doctor_json(facts, problems));
  return 0;
}

}  // namespace

extern constinit const Command doctor_command = {
    .name = "doctor",
    .summary = "show what this machine has, and what to mend",
    .help =
        "Shows processor, memory, disk, torch, the kernels that are chosen and why, where data sets are looked "
        "for, and the terminal. Everything that stands in the way of a run comes with a line that mends it. "
        "Nothing is changed and nothing is sent anywhere; the exit code is 0 whatever is found.",
    .group = "this program",
    .examples = kDoctorExamples,
    .run = run_doctor,
};

}  // namespace collegium::cli
