// A decision whose experts are counted from another one: the same assignments under new numbers, still sorted.
//
// N tokens, E experts.
#include "tests/support/routing.h"

using namespace collegium;
using namespace collegium::route;
using namespace collegium::test;

TEST_CASE("turned: every assignment keeps all but its expert's number") {
  for (const auto& fields : {table({{"k", 2}}), table({{"k", 3}, {"capacity_factor", 0.5}})}) {
    const auto router = make_router({.name = "top_k", .fields = fields}, 6, 5, 1, at::kDouble);
    scale_parameters(*router, 5);
    const auto d = router->route(numbers(Random(3), {11, 6}, -1, 1, at::kDouble), context_of(11)).decision;
    for (const int64_t shift : {0, 1, 4}) {
      const auto t = d.turned(shift);
      check_decision(t, 11, 5);
      CHECK(pairs(t.token_R(), t.expert_R()) == pairs(d.token_R(), (d.expert_R() + shift).remainder(5)));
      CHECK(t.n_dropped() == d.n_dropped());
      if (d.n_dropped())
        CHECK(pairs(t.dropped().token_Q, t.dropped().expert_Q) ==
              pairs(d.dropped().token_Q, (d.dropped().expert_Q + shift).remainder(5)));
      const auto by_pair = [](const Decision& one, int64_t back) {
        const auto key = one.token_R() * 5 + (one.expert_R() + 5 - back).remainder(5);
        return one.gate_R().detach().index_select(0, key.argsort());
      };
      CHECK(same_bits(by_pair(t, shift), by_pair(d, 0)));
      CHECK(same_bits(t.turned((5 - shift) % 5).expert_R(), d.expert_R()));
    }
  }
}
