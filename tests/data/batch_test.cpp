#include "collegium/data/batch.h"

#include <ATen/ATen.h>

#include <numeric>
#include <set>

#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;

namespace {

// Token i of the stream is i, one byte each except that multiples of ten are end tokens without bytes.
TokenSet counting(int64_t n) {
  std::vector<int32_t> tokens(static_cast<size_t>(n)), lengths(static_cast<size_t>(std::max<int64_t>(n, 1)));
  std::iota(tokens.begin(), tokens.end(), 0);
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = i % 10 == 0 ? 0 : 1;
  return TokenSet(tokens, lengths);
}

std::vector<int64_t> values(const Tensor& tensor) {
  const auto flat = tensor.contiguous();
  return {flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel()};
}

}  // namespace

TEST_CASE("tokens in memory and in files read alike") {
  const Scratch scratch;
  const std::vector<int32_t> tokens = {5, 0, 300, 299, 7};
  const std::vector<int32_t> lengths(400, 2);
  const std::vector<DocumentSpan> documents = {{.id = "a", .begin = 0, .n_tokens = 2, .n_bytes = 3},
                                               {.id = "b", .begin = 2, .n_tokens = 3, .n_bytes = 5}};
  const TokenSet in_memory(tokens, lengths, documents);
  for (const int width : {2, 4}) {
    const auto file = scratch.write("tokens.bin", pack_tokens(tokens, width));
    const auto mapped = TokenSet::map(file, width, lengths, documents);
    for (const auto* set : {&in_memory, &mapped}) {
      CHECK(set->n_tokens() == 5);
      CHECK(set->n_bytes() == 8);
      CHECK(set->n_documents() == 2);
      CHECK(set->token(2) == 300);
      std::vector<int64_t> part(3);
      set->copy(1, 3, part.data());
      CHECK(part == std::vector<int64_t>{0, 300, 299});
      CHECK(set->document_at(1) == 0);
      CHECK(set->document_at(2) == 1);
      CHECK(set->document_at(4) == 1);
    }
  }
  CHECK(token_width(65536) == 2);
  CHECK(token_width(65537) == 4);
  const auto cut = scratch.write("cut.bin", "xyz");
  CHECK(error_of(scratch, [&] { TokenSet::map(cut, 2, lengths, documents); }) ==
        "4: SCRATCH/cut.bin: 10 bytes of tokens wanted, found 3 [remove the folder; it is made again]");
  CHECK(error_of(scratch, [&] { TokenSet::map(scratch.path() / "none.bin", 2, lengths, documents); }) ==
        "5: SCRATCH/none.bin: cannot be opened: No such file or directory");
}

TEST_CASE("the Feistel walk is a permutation, another one for each stream") {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    CAPTURE(n);
    std::vector<int64_t> seen;
    const Permutation order(Random(3).at("x"), n);
    for (int64_t i = 0; i < n; ++i) seen.push_back(order(i));
    auto sorted = seen;
    std::sort(sorted.begin(), sorted.end());
    std::vector<int64_t> all(static_cast<size_t>(n));
    std::iota(all.begin(), all.end(), 0);
    CHECK(sorted == all);
    if (n < 100) continue;
    CHECK(seen != all);
    const Permutation other(Random(4).at("x"), n);
    int64_t n_equal = 0;
    for (int64_t i = 0; i < n; ++i) n_equal += other(i) == seen[static_cast<size_t>(i)];
    CHECK(n_equal < 12);
  }
}

TEST_CASE("an epoch sees each window once, the next one in another order") {
  const BatchStream stream(counting(1000), {.batch_size = 3, .context = 8, .n_micro = 2, .seed = 5});
  CHECK(stream.n_windows() == 111);
  CHECK(stream.steps_per_epoch() == 19);
  std::vector<int64_t> begins;
  for (int64_t step = 0; begins.size() < 222; ++step)
    for (int64_t micro = 0; micro < 2; ++micro)
      for (const auto begin : values(stream.batch(step, micro).input_BT.select(1, 0))) begins.push_back(begin);
  const std::vector<int64_t> first(begins.begin(), begins.begin() + 111),
      second(begins.begin() + 111, begins.begin() + 222);
  CHECK(first != second);
  std::set<int64_t> expected;
  for (int64_t w = 0; w < 111; ++w) expected.insert(w * 9);
  CHECK(std::set<int64_t>(first.begin(), first.end()) == expected);
  CHECK(std::set<int64_t>(second.begin(), second.end()) == expected);
}

TEST_CASE("a batch: targets are the next tokens, bytes and documents fit") {
  TokenSet tokens = counting(1000);
  const BatchStream stream(tokens, {.batch_size = 4, .context = 16, .seed = 1});
  const auto batch = stream.batch(7);
  CHECK(batch.input_BT.sizes() == at::IntArrayRef({4, 16}));
  CHECK(batch.input_BT.dtype() == at::kLong);
  CHECK(batch.mask_BT.dtype() == at::kBool);
  CHECK(at::equal(batch.target_BT, batch.input_BT + 1));
  CHECK(batch.mask_BT.all().item<bool>());
  CHECK(batch.n_targets == 64);
  CHECK(batch.bytes == batch.target_BT.remainder(10).ne(0).sum().item<int64_t>());
  CHECK(at::equal(batch.document_BT, at::zeros({4, 16}, at::kLong)));
}

TEST_CASE("document numbers change where documents do") {
  const TokenSet tokens({1, 2, 0, 3, 0, 4, 5, 0}, {0, 1, 1, 1, 1, 1},
                        {{.begin = 0, .n_tokens = 3}, {.begin = 3, .n_tokens = 2}, {.begin = 5, .n_tokens = 3}});
  const auto batch = EvalStream(tokens, {.batch_size = 1, .context = 10}).batch(0);
  CHECK(values(batch.document_BT) == std::vector<int64_t>{0, 0, 0, 1, 1, 2, 2, -1, -1, -1});
}

TEST_CASE("batches are a pure function of seed, step and micro-batch") {
  const auto tokens = counting(2000);
  const BatchOptions options{.batch_size = 2, .context = 10, .n_micro = 2, .seed = 9};
  const BatchStream stream(tokens, options), again(tokens, options);
  for (const int64_t step : {40, 3, 1000000, 0})
    CHECK(at::equal(stream.batch(step, 1).input_BT, again.batch(step, 1).input_BT));
  auto other = options;
  other.seed = 10;
  CHECK_FALSE(at::equal(stream.batch(0).input_BT, BatchStream(tokens, other).batch(0).input_BT));
  CHECK_FALSE(at::equal(stream.batch(0, 0).input_BT, stream.batch(0, 1).input_BT));
  // Two micro-batches of 2 see what one batch of 4 sees.
  auto whole = options;
  whole.batch_size = 4, whole.n_micro = 1;
  CHECK(at::equal(at::cat({stream.batch(5, 0).input_BT, stream.batch(5, 1).input_BT}),
                  BatchStream(tokens, whole).batch(5).input_BT));
}

TEST_CASE("the cursor follows from the step") {
  const BatchStream stream(counting(100), {.batch_size = 2, .context = 9, .n_micro = 2});  // 10 windows, 4 a step
  CHECK(stream.cursor(0).epoch == 0);
  CHECK(stream.cursor(2).index == 8);
  CHECK(stream.cursor(3).epoch == 1);
  CHECK(stream.cursor(3).index == 2);
  CHECK(stream.cursor(3).table() == table({{"epoch", 1}, {"index", 2}}));
}

TEST_CASE("evaluation covers each target exactly once, padding is masked") {
  for (const int64_t n : {2, 9, 10, 11, 12, 100, 101}) {
    CAPTURE(n);
    const EvalStream stream(counting(n), {.batch_size = 3, .context = 10});
    std::vector<int64_t> targets;
    int64_t bytes = 0;
    for (int64_t i = 0; i < stream.n_batches(); ++i) {
      const auto batch = stream.batch(i);
      CHECK(batch.target_BT.sizes() == at::IntArrayRef({3, 10}));
      const auto kept = values(batch.target_BT.masked_select(batch.mask_BT));
      CHECK(static_cast<int64_t>(kept.size()) == batch.n_targets);
      targets.insert(targets.end(), kept.begin(), kept.end());
      bytes += batch.bytes;
      CHECK(batch.document_BT.eq(-1).equal(batch.mask_BT.logical_not()));
    }
    std::vector<int64_t> expected(static_cast<size_t>(n - 1));
    std::iota(expected.begin(), expected.end(), 1);
    CHECK(targets == expected);
    CHECK(bytes == n - 1 - (n - 1) / 10);
  }
  const EvalStream few(counting(101), {.batch_size = 3, .context = 10, .max_windows = 4});
  CHECK(few.n_windows() == 4);
  CHECK(few.n_batches() == 2);
  CHECK(few.batch(1).n_targets == 10);
}

TEST_CASE("too little text says how much is needed") {
  CHECK(BatchStream(counting(11), {.context = 10}).n_windows() == 1);
  CHECK(
      error_of([] { BatchStream(counting(10), {.context = 10}); }) ==
      "4: the training text has 10 tokens, fewer than one window of 11 (context 10 and the token after it) [give more "
      "text or a smaller context]");
  CHECK(error_of([] { EvalStream(counting(1), {}); }) ==
        "4: the held-out text has 1 tokens; two are needed to predict one [hold out more text]");
  CHECK(error_of([] { BatchStream(counting(100), {.batch_size = 0}); }) ==
        "2: batches: batch_size must be at least 1, got 0");
  CHECK(error_of([] { BatchStream(counting(100), {.context = 0}); }) ==
        "2: batches: context must be at least 1, got 0");
}

TEST_CASE("prompts are read and do not count") {
  // Documents 1 2 | 3 0, 4 | 5 6 0, 7 8 0 of which the part before the bar is a prompt; 0 ends each and has no bytes.
  const TokenSet tokens({1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 0}, {0, 1, 1, 1, 1, 1, 1, 1, 1},
                        {{.begin = 0, .n_tokens = 4, .n_prompt = 2},
                         {.begin = 4, .n_tokens = 4, .n_prompt = 1},
                         {.begin = 8, .n_tokens = 3}});
  CHECK(tokens.has_prompts());
  const auto batch = EvalStream(tokens, {.batch_size = 2, .context = 6}).batch(0);
  CHECK(values(batch.target_BT.masked_select(batch.counts_BT)) == std::vector<int64_t>{3, 0, 5, 6, 0, 7, 8, 0});
  CHECK(batch.mask_BT.sum().item<int64_t>() == 10);
  CHECK(batch.n_real == 10);
  CHECK(batch.n_targets == 8);
  CHECK(batch.bytes == 5);

  const BatchStream stream(tokens, {.batch_size = 3, .context = 2, .seed = 1});
  for (int64_t step = 0; step < 4; ++step) {
    const auto some = stream.batch(step);
    const auto target = values(some.target_BT), counts = values(some.counts_BT.to(at::kLong));
    CHECK(some.n_targets == some.counts_BT.sum().item<int64_t>());
    for (size_t i = 0; i < target.size(); ++i) CHECK(counts[i] == (target[i] != 1 && target[i] != 2 && target[i] != 4));
  }
  CHECK_THROWS_AS(TokenSet({1, 0}, {0, 1}, {{.begin = 0, .n_tokens = 2, .n_prompt = 3}}), std::logic_error);
}

TEST_CASE("without prompts all text counts") {
  const auto batch = EvalStream(counting(14), {.batch_size = 2, .context = 10}).batch(0);
  CHECK(at::equal(batch.counts_BT, batch.mask_BT));
  CHECK(batch.n_real == 13);
  CHECK(batch.n_targets == 13);
}
