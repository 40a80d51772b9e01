#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>

#include "collegium/base/error.h"

namespace collegium::cli {
namespace {

constexpr std::array<int, 2> kSignals = {SIGINT, SIGTERM};

struct InterruptState {
  std::atomic<int> signals = 0;
  std::atomic<bool> in_use = false;
  std::array<struct sigaction, kSignals.size()> earlier = {};
};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch lock-free atomics only");

// The process-wide state that the header speaks of.
InterruptState interrupt_state;

extern "C" void collegium_on_interrupt(int) {
  if (interrupt_state.signals.fetch_add(1) > 0) _exit(static_cast<int>(ErrorKind::interrupted));
}

}  // namespace

InterruptFlag::InterruptFlag() {
  ensure(!interrupt_state.in_use.exchange(true), "two InterruptFlags at once");
  interrupt_state.signals = 0;
  struct sigaction action = {};
  action.sa_handler = collegium_on_interrupt;
  sigemptyset(&action.sa_mask);
  // Reads and writes under way go on: a checkpoint half written must not fail because of Ctrl-C.
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &interrupt_state.earlier[i]);
}

InterruptFlag::~InterruptFlag() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &interrupt_state.earlier[i], nullptr);
  interrupt_state.in_use = false;
}

bool InterruptFlag::raised() const {
  return interrupt_state.signals.load(std::memory_order_relaxed) > 0;
}

}  // namespace collegium::cli
