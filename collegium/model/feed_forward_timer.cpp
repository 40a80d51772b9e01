#include "collegium/model/feed_forward_timer.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/record_function.h>

#include <memory>
#include <string_view>
#include <utility>

#include "collegium/base/error.h"
#include "collegium/kernels/cuda_driver.h"
#include "collegium/model/feed_forward.h"

namespace collegium::model {
namespace {

// A callback of torch is a plain function, so it cannot carry the timer.
thread_local FeedForwardTimer* listening = nullptr;

struct Begun final : at::ObserverContext {
  explicit Begun(double at) : seconds(at) {}
  double seconds;
};

std::unique_ptr<at::ObserverContext> heard_begin(const at::RecordFunction& function) {
  if (!listening || std::string_view(function.name()) != feed_forward_scope) return nullptr;
  return std::make_unique<Begun>(listening->now());
}

void heard_end(const at::RecordFunction&, at::ObserverContext* begun) {
  if (listening && begun) listening->add(listening->now() - static_cast<Begun*>(begun)->seconds);
}

}  // namespace

FeedForwardTimer::FeedForwardTimer(Clock clock, c10::Device device) : clock_(std::move(clock)), device_(device) {
  ensure(!listening, "one timer of feed-forward places at a time");
  listening = this;
  callback_ = at::addThreadLocalCallback(
      at::RecordFunctionCallback(heard_begin, heard_end).scopes({at::RecordScope::USER_SCOPE}));
}

FeedForwardTimer::~FeedForwardTimer() {
  at::removeCallback(callback_);
  listening = nullptr;
}

double FeedForwardTimer::now() const {
  if (device_.is_cuda())
    at::detail::getCUDAHooks().deviceSynchronize(static_cast<c10::DeviceIndex>(kernels::cuda_index(device_)));
  return clock_();
}

}  // namespace collegium::model
