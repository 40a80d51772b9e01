// Batches of windows over a token stream, each a pure function of its number: resuming needs the step alone.
//
// B sequences a batch, T positions a sequence.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "collegium/data/order.h"
#include "collegium/data/packed.h"

namespace collegium::data {

using at::Tensor;

struct Batch {
  Tensor input_BT;        ///< int64 token ids
  Tensor target_BT;       ///< int64, the token after each input
  Tensor mask_BT;         ///< bool, true where there is text, false in padding
  Tensor counts_BT;       ///< bool, true where the target counts: text that is not part of a document's prompt
  Tensor document_BT;     ///< int64, which document of the set each input token belongs to; -1 in padding
  int64_t n_real = 0;     ///< input tokens that are text
  int64_t n_targets = 0;  ///< targets that count
  int64_t bytes = 0;      ///< UTF-8 bytes of the targets that count; an end token has none
};

struct BatchOptions {
  int64_t batch_size = 8;  ///< B, windows a micro-batch
  int64_t context = 256;   ///< T, tokens
  int64_t n_micro = 1;     ///< micro-batches a step
  uint64_t seed = 0;
};

/// Training windows: T + 1 tokens each, laid over the stream without overlap, visited in another order each epoch.
/// A batch may span two epochs. The rest of the stream that is shorter than a window is not visited.
class BatchStream {
 public:
  /// Throws Error(data) when the set is shorter than one window; usage Error for sizes below 1.
  BatchStream(TokenSet tokens, const BatchOptions& options);

  /// Micro-batch `micro` in [0, n_micro) of step `step` >= 0; equal arguments give equal batches. mask_BT is all true;
  /// so is counts_BT where the set has no prompts.
  Batch batch(int64_t step, int64_t micro = 0) const;

  /// The state before `step`.
  Cursor cursor(int64_t step) const { return order_.cursor(step); }
  int64_t n_windows() const { return n_windows_; }
  /// Steps after which each window was seen once, rounded up.
  int64_t steps_per_epoch() const { return order_.steps_per_epoch(); }
  const TokenSet& tokens() const { return tokens_; }

 private:
  TokenSet tokens_;
  BatchOptions options_;
  int64_t n_windows_;
  EpochOrder order_;
};

struct EvalOptions {
  int64_t batch_size = 8;   ///< B
  int64_t context = 256;    ///< T
  int64_t max_windows = 0;  ///< the first so many windows; 0 = all
};

/// Windows for evaluation, in order: each token but the first is a target exactly once, so that the losses add up to
/// the whole set's (prompts do not count). The last window and the last batch are padded with token 0 and mask false.
class EvalStream {
 public:
  /// Throws Error(data) when the set has fewer than two tokens; usage Error for sizes below 1.
  EvalStream(TokenSet tokens, const EvalOptions& options);
  int64_t n_windows() const { return n_windows_; }
  int64_t n_batches() const { return (n_windows_ + options_.batch_size - 1) / options_.batch_size; }
  const TokenSet& tokens() const { return tokens_; }
  /// Batch `index` in [0, n_batches).
  Batch batch(int64_t index) const;

 private:
  TokenSet tokens_;
  EvalOptions options_;
  int64_t n_windows_;
};

}  // namespace collegium::data
