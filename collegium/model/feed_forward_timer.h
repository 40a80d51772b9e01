// How long a model's feed-forward places take, heard through torch's observer interface (feed_forward.h).
#pragma once
#include <c10/core/Device.h>

#include <cstdint>

#include "collegium/base/progress.h"

namespace collegium::model {

/// Adds up the forward passes that this thread makes while the timer lives. One at a time on a thread. On a CUDA device
/// it waits for what was asked for before it reads the clock.
class FeedForwardTimer {
 public:
  FeedForwardTimer(Clock clock, c10::Device device);
  ~FeedForwardTimer();
  FeedForwardTimer(const FeedForwardTimer&) = delete;
  FeedForwardTimer& operator=(const FeedForwardTimer&) = delete;
  double seconds() const { return seconds_; }
  int64_t passes() const { return passes_; }  ///< of single places

  double now() const;
  void add(double seconds) { seconds_ += seconds, ++passes_; }

 private:
  Clock clock_;
  c10::Device device_;
  double seconds_ = 0;
  int64_t passes_ = 0;
  uint64_t callback_ = 0;
};

}  // namespace collegium::model
