// Counting the work that is really done, to hold plans to it.
#pragma once
#include <cstdint>

namespace collegium::kernels {

/// Counts the multiply-adds (as two operations) of the products that this thread asks for while the counter lives:
/// torch's matrix products and fused attention (half of the square where it is causal), and this room's own loops.
/// Element-wise work, convolutions and the backward pass of fused attention are not counted. Counters may stand inside
/// one another.
class FlopCounter {
 public:
  FlopCounter();
  ~FlopCounter();
  FlopCounter(const FlopCounter&) = delete;
  FlopCounter& operator=(const FlopCounter&) = delete;
  double flops() const { return flops_; }

 private:
  double flops_ = 0;
  double* outer_;
  uint64_t callback_ = 0;
};

/// For this room's products: adds to this thread's counters, if there are any.
void count_flops(double flops);

}  // namespace collegium::kernels
