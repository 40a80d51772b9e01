#include "collegium/data/order.h"

#include <bit>

#include "collegium/base/error.h"

namespace collegium::data {

Permutation::Permutation(const Random& random, int64_t n) : random_(random), n_(static_cast<uint64_t>(n)) {
  ensure(n >= 1, "a permutation of ", n, " numbers");
  half_bits_ = (std::bit_width(n_ - 1) + 1) / 2;
}

int64_t Permutation::operator()(int64_t i) const {
  ensure(i >= 0 && static_cast<uint64_t>(i) < n_, i, " is outside [0, ", n_, ")");
  if (half_bits_ == 0) return 0;
  const auto mask = (uint64_t{1} << half_bits_) - 1;
  auto at = static_cast<uint64_t>(i);
  // The network permutes [0, 4^half_bits), at most 4 n numbers; walking its cycle until the number is below n
  // permutes [0, n).
  do {
    uint64_t left = at >> half_bits_, right = at & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const auto mixed = random_.bits((round << 32) | right) & mask;
      const auto next = left ^ mixed;
      left = right;
      right = next;
    }
    at = (left << half_bits_) | right;
  } while (at >= n_);
  return static_cast<int64_t>(at);
}

Table Cursor::table() const {
  return collegium::table({{"epoch", epoch}, {"index", index}});
}

EpochOrder::EpochOrder(const Random& random, int64_t n_items, int64_t batch_size, int64_t n_micro)
    : random_(random), n_items_(n_items), batch_size_(batch_size), n_micro_(n_micro) {
  ensure(n_items >= 1 && batch_size >= 1 && n_micro >= 1, "batches of ", n_items, " items");
}

int64_t EpochOrder::item(int64_t step, int64_t micro, int64_t row) const {
  ensure(step >= 0 && micro >= 0 && micro < n_micro_, "batch ", micro, " of step ", step);
  const auto number = (step * n_micro_ + micro) * batch_size_ + row;
  const Permutation order(random_.at(static_cast<uint64_t>(number / n_items_)), n_items_);
  return order(number % n_items_);
}

Cursor EpochOrder::cursor(int64_t step) const {
  const auto number = step * n_micro_ * batch_size_;
  return {.epoch = number / n_items_, .index = number % n_items_};
}

int64_t EpochOrder::steps_per_epoch() const {
  const auto per_step = n_micro_ * batch_size_;
  return (n_items_ + per_step - 1) / per_step;
}

}  // namespace collegium::data
