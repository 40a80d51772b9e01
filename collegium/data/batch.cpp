#include "collegium/data/batch.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "collegium/base/error.h"

namespace collegium::data {
namespace {

// Fills one row after the other of a batch of B windows.
class BatchWriter {
 public:
  BatchWriter(const TokenSet& tokens, int64_t n_rows, int64_t context)
      : tokens_(tokens), context_(context), has_prompts_(tokens.has_prompts()), row_(static_cast<size_t>(context) + 1) {
    const auto integers = at::TensorOptions().dtype(at::kLong);
    batch_.input_BT = at::zeros({n_rows, context}, integers);
    batch_.target_BT = at::zeros({n_rows, context}, integers);
    batch_.mask_BT = at::zeros({n_rows, context}, at::TensorOptions().dtype(at::kBool));
    batch_.counts_BT = at::zeros({n_rows, context}, at::TensorOptions().dtype(at::kBool));
    batch_.document_BT = at::full({n_rows, context}, -1, integers);
  }

  // `n_targets` targets from the token after `begin` on; the rest of the row stays padding.
  void write(int64_t row, int64_t begin, int64_t n_targets) {
    tokens_.copy(begin, n_targets + 1, row_.data());
    auto* input = batch_.input_BT.data_ptr<int64_t>() + row * context_;
    auto* target = batch_.target_BT.data_ptr<int64_t>() + row * context_;
    std::copy_n(row_.begin(), n_targets, input);
    std::copy_n(row_.begin() + 1, n_targets, target);
    std::fill_n(batch_.mask_BT.data_ptr<bool>() + row * context_, n_targets, true);
    auto* counts = batch_.counts_BT.data_ptr<bool>() + row * context_;
    std::fill_n(counts, n_targets, true);
    if (has_prompts_) close_prompts(counts, begin + 1, n_targets);
    for (int64_t i = 0; i < n_targets; ++i)
      if (counts[i]) batch_.bytes += tokens_.bytes_of(target[i]), ++batch_.n_targets;
    batch_.n_real += n_targets;
    write_documents(batch_.document_BT.data_ptr<int64_t>() + row * context_, begin, n_targets);
  }

  Batch take() { return std::move(batch_); }

 private:
  // Of `count` targets from token `begin` on, those of prompts do not count.
  void close_prompts(bool* counts, int64_t begin, int64_t count) const {
    for (auto d = static_cast<size_t>(tokens_.document_at(begin)); d < tokens_.documents().size(); ++d) {
      const auto& span = tokens_.documents()[d];
      if (span.begin >= begin + count) return;
      const auto from = std::max(span.begin, begin), to = std::min(span.begin + span.n_prompt, begin + count);
      if (to > from) std::fill_n(counts + (from - begin), to - from, false);
    }
  }
  void write_documents(int64_t* to, int64_t begin, int64_t count) const {
    auto document = tokens_.document_at(begin);
    for (int64_t i = 0; i < count; ++i) {
      const auto end_of = [&](int64_t d) {
        const auto& span = tokens_.documents()[static_cast<size_t>(d)];
        return span.begin + span.n_tokens;
      };
      while (begin + i >= end_of(document)) ++document;
      to[i] = document;
    }
  }

  const TokenSet& tokens_;
  int64_t context_;
  bool has_prompts_;
  std::vector<int64_t> row_;
  Batch batch_;
};

void check_sizes(std::string_view who, int64_t batch_size, int64_t context) {
  require(batch_size >= 1, who, ": batch_size must be at least 1, got ", batch_size);
  require(context >= 1, who, ": context must be at least 1, got ", context);
}

}  // namespace

namespace {

// Checks the sizes before anything is made of them.
int64_t windows_of(const TokenSet& tokens, const BatchOptions& options) {
  check_sizes("batches", options.batch_size, options.context);
  require(options.n_micro >= 1, "batches: n_micro must be at least 1, got ", options.n_micro);
  const auto n_windows = tokens.n_tokens() / (options.context + 1);
  if (n_windows < 1)
    throw Error(ErrorKind::data,
                text("the training text has ", tokens.n_tokens(), " tokens, fewer than one window of ",
                     options.context + 1, " (context ", options.context, " and the token after it)"),
                "give more text or a smaller context");
  return n_windows;
}

}  // namespace

BatchStream::BatchStream(TokenSet tokens, const BatchOptions& options)
    : tokens_(std::move(tokens)),
      options_(options),
      n_windows_(windows_of(tokens_, options)),
      order_(Random(options.seed).at("batches"), n_windows_, options.batch_size, options.n_micro) {}

Batch BatchStream::batch(int64_t step, int64_t micro) const {
  BatchWriter writer(tokens_, options_.batch_size, options_.context);
  for (int64_t row = 0; row < options_.batch_size; ++row)
    writer.write(row, order_.item(step, micro, row) * (options_.context + 1), options_.context);
  return writer.take();
}

EvalStream::EvalStream(TokenSet tokens, const EvalOptions& options) : tokens_(std::move(tokens)), options_(options) {
  check_sizes("evaluation", options.batch_size, options.context);
  require(options.max_windows >= 0, "evaluation: max_windows must be at least 0, got ", options.max_windows);
  if (tokens_.n_tokens() < 2)
    throw Error(ErrorKind::data,
                text("the held-out text has ", tokens_.n_tokens(), " tokens; two are needed to predict one"),
                "hold out more text");
  n_windows_ = (tokens_.n_tokens() - 1 + options.context - 1) / options.context;
  if (options.max_windows > 0) n_windows_ = std::min(n_windows_, options.max_windows);
}

Batch EvalStream::batch(int64_t index) const {
  ensure(index >= 0 && index < n_batches(), "evaluation batch ", index, " of ", n_batches());
  BatchWriter writer(tokens_, options_.batch_size, options_.context);
  for (int64_t row = 0; row < options_.batch_size; ++row) {
    const auto window = index * options_.batch_size + row;
    if (window >= n_windows_) break;
    const auto begin = window * options_.context;
    writer.write(row, begin, std::min(options_.context, tokens_.n_tokens() - 1 - begin));
  }
  return writer.take();
}

}  // namespace collegium::data
