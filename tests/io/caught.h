// What an action throws, for tests that look at messages.
#pragma once
#include <doctest/doctest.h>

#include <functional>
#include <string>

#include "collegium/base/error.h"

namespace collegium::test {

struct Caught {
  std::string message = "no error";
  std::string hint;
  ErrorKind kind = ErrorKind::interrupted;
  bool has(std::string_view part) const { return message.find(part) != std::string::npos; }
};

inline Caught caught(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return {e.what(), e.hint(), e.kind()};
  }
  return {};
}

}  // namespace collegium::test
