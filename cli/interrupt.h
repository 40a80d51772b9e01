// Ctrl-C without lost work: the first SIGINT or SIGTERM asks for an end, the second one ends at once.
#pragma once

namespace collegium::cli {

/// While one lives, SIGINT and SIGTERM set a flag instead of ending the program:
///
///   InterruptFlag interrupt;
///   while (step < steps && !interrupt.raised()) …
///
/// A second signal ends the program at once with exit code 130. The destructor puts the earlier handlers back.
/// Only one may live at a time (std::logic_error).
///
/// A signal handler gets no argument of ours, so the flag it sets has to be a global of the process. It is the only
/// one in Collegium, it is hidden in interrupt.cpp, and code below the command line takes a
/// std::function<bool()> instead.
class InterruptFlag {
 public:
  InterruptFlag();
  ~InterruptFlag();
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;
  /// Whether a signal came since construction. Cheap enough for every step.
  bool raised() const;
};

}  // namespace collegium::cli
