// A plan's memory: refused where it surely does not suffice, said to be unknown where nobody tells.
#include "collegium/recipe/plan.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "collegium/kernels/cuda_driver.h"

namespace {

using namespace collegium;

// A model that is never built: plans work on shapes.
RunConfig small_run() {
  RunConfig out;
  out.model = {.name = "decoder", .fields = table({{"d_model", 64}, {"n_layers", 2}, {"n_heads", 2}})};
  out.data.sources = {"shakespeare"};
  out.train.batch_size = 4, out.train.context = 32;
  return out;
}

RunSetting setting_on(const std::string& device) {
  return {.runs_root = std::filesystem::temp_directory_path(), .device = at::Device(device)};
}

}  // namespace

TEST_CASE("a device whose memory does not hold the run is refused, with both numbers and its name") {
  const auto cuda = setting_on("cuda:0");
  const auto needed = make_plan_within({}, small_run(), cuda, false).memory_bytes;
  CHECK(needed > 16.0 * 2 * 64 * 64);
  const auto plan = make_plan_within(needed / 2, small_run(), cuda, false);
  REQUIRE(plan.refusals.size() == 1);
  CHECK(plan.refusals[0].find("needs about ") == 0);
  CHECK(plan.refusals[0].find(" are on cuda:0") != std::string::npos);
  CHECK_THROWS_AS(refuse_if_too_large(plan), Error);
  CHECK(make_plan_within(needed * 2, small_run(), cuda, false).refusals.empty());
}

TEST_CASE("a device whose memory nobody tells refuses nothing, and the plan says that it does not know") {
  const auto plan = make_plan_within({}, small_run(), setting_on("cuda:0"), false);
  CHECK_FALSE(plan.memory_available);
  CHECK(plan.refusals.empty());
}

TEST_CASE("the memory of a device is that of the device") {
  CHECK(memory_of(at::kCPU).value_or(0) > 0);
  CHECK(make_plan(small_run(), setting_on("cpu"), false).memory_available.value_or(0) > 0);
  // There is no such device, with or without a driver.
  CHECK_FALSE(memory_of(at::Device(at::kCUDA, 100)));
  const auto told = kernels::cuda_memory_bytes(0);
  CHECK(told.has_value() == kernels::cuda_capability(0).has_value());
  if (told) {
    CHECK(*told > int64_t{1} << 28);
    CHECK(memory_of(at::kCUDA) == static_cast<double>(*told));
  }
}

TEST_CASE("what the process holds already counts where it trains on the CPU only") {
  const auto here = make_plan_within({}, small_run(), setting_on("cpu"), false).memory_bytes,
             there = make_plan_within({}, small_run(), setting_on("cuda"), false).memory_bytes;
  CHECK(here > there);
}
