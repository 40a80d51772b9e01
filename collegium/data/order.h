// In which order training visits what it learns from: another one each epoch, known from the step alone.
#pragma once
#include <cstdint>

#include "collegium/base/random.h"
#include "collegium/base/value.h"

namespace collegium::data {

/// A seeded permutation of [0, n) that needs no memory: a Feistel network that walks until it falls below n.
class Permutation {
 public:
  /// n >= 1.
  Permutation(const Random& random, int64_t n);
  /// Where `i` in [0, n) goes.
  int64_t operator()(int64_t i) const;

 private:
  Random random_;
  uint64_t n_;
  int half_bits_;
};

/// How far training has come in its data.
struct Cursor {
  int64_t epoch = 0;  ///< passes over everything that are complete
  int64_t index = 0;  ///< windows or examples seen in this pass
  Table table() const;
};

/// Batches of `batch_size` items out of `n_items`, `n_micro` of them a step; a batch may span two epochs.
class EpochOrder {
 public:
  /// n_items, batch_size, n_micro >= 1.
  EpochOrder(const Random& random, int64_t n_items, int64_t batch_size, int64_t n_micro);
  /// The item in row `row` of micro-batch `micro` in [0, n_micro) of step `step` >= 0.
  int64_t item(int64_t step, int64_t micro, int64_t row) const;
  /// The state before `step`.
  Cursor cursor(int64_t step) const;
  /// Steps after which each item was seen once, rounded up.
  int64_t steps_per_epoch() const;

 private:
  Random random_;
  int64_t n_items_, batch_size_, n_micro_;
};

}  // namespace collegium::data
