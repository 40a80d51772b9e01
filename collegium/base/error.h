// Errors that a user can read: who speaks, what was wanted, what came.
//
// A user's mistake throws Error at the edge where it is noticed; the kind decides the exit code of the
// command line and the exception type in Python. A broken invariant inside the engine is a bug: it throws
// std::logic_error through `ensure` and is never part of normal use.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace collegium {

/// What went wrong, and with it the exit code of the command line.
enum class ErrorKind : int {
  usage = 2,         ///< wrong argument or configuration
  refused = 3,       ///< a plan that does not fit, a resume that would drift
  data = 4,          ///< unreadable or wrong data
  io = 5,            ///< a file could not be read or written
  interrupted = 130  ///< Ctrl-C, after the checkpoint was written
};

/// An error with a message for people. `hint` says what to do next; it may be empty.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string message, std::string hint = {})
      : std::runtime_error(std::move(message)), kind_(kind), hint_(std::move(hint)) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& hint() const { return hint_; }

 private:
  ErrorKind kind_;
  std::string hint_;
};

/// Joins the parts as an output stream would print them.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws a usage Error made of `parts` unless `ok`.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) throw Error(ErrorKind::usage, text(parts...));
}

/// Throws an Error of `kind` made of `parts`.
template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, text(parts...));
}

/// Throws std::logic_error unless `ok`: for invariants that no input can break.
template <class... Parts>
void ensure(bool ok, const Parts&... parts) {
  if (!ok) throw std::logic_error(text("internal error: ", parts...));
}

/// The member of `known` with the smallest edit distance to `word`, or "" when none is near
/// (distance above a third of the longer word, and above 2).
std::string nearest(std::string_view word, const std::vector<std::string>& known);

/// "a, b, c".
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");

}  // namespace collegium
