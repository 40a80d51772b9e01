#include "collegium/kernels/isa.h"

#include "check.h"

namespace kernels = collegium::kernels;
using namespace kernels_test;

TEST_CASE("every instruction set has a name of its own and plain runs anywhere") {
  const auto all = kernels::isas();
  REQUIRE(!all.empty());
  CHECK(all[0].name == "plain");
  CHECK(all[0].supported());
  for (size_t i = 0; i < all.size(); ++i)
    for (size_t j = 0; j < i; ++j) CHECK(all[i].name != all[j].name);
}

TEST_CASE("an instruction set is chosen by name, or the last supported one") {
  const kernels::Isa* last = nullptr;
  for (const auto& isa : kernels::isas()) {
    if (!isa.supported()) {
      CHECK(complaint([&] { kernels::choose_isa(isa.name); }).find("does not support") != std::string::npos);
      continue;
    }
    CHECK(&kernels::choose_isa(isa.name) == &isa);
    last = &isa;
  }
  CHECK(&kernels::choose_isa("") == last);
  CHECK(kernels::isa_report().find(kernels::chosen_isa().name) != std::string::npos);
}

TEST_CASE("an unknown instruction set is refused with the available ones") {
  const auto message = complaint([] { kernels::choose_isa("plan"); });
  CHECK(message.find("unknown instruction set 'plan'") != std::string::npos);
  CHECK(message.find("did you mean 'plain'") != std::string::npos);
  CHECK(message.find("available here: plain") != std::string::npos);
}

TEST_CASE("bfloat16 loops belong to their instruction set, and the report says which products run") {
  for (const auto& isa : kernels::isas()) {
    CAPTURE(isa.name);
    CHECK((isa.bf16 != &isa.loops->of_bf16) == (isa.name == "avx512_bf16"));
  }
  const auto report = kernels::products_report();
  CHECK(report.find("bfloat16") != std::string::npos);
  CHECK((report.find("the processor's dot product") != std::string::npos) ==
        (kernels::chosen_isa().name == "avx512_bf16"));
}
