// How places in experts' buffers are given away.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace collegium::route {

/// Who gets the room when there is not enough of it.
enum class Priority {
  position,  ///< earlier tokens first (Switch); causal
  rank,      ///< first choices before second ones, then earlier tokens (GShard)
  score      ///< higher selection scores first (batch-prioritised, Riquelme 2021)
};
std::span<const std::string_view> enum_names(Priority);

/// How a capacity stage gives away an expert's places, for people.
struct PlaceRule {
  std::optional<Priority> order;  ///< whose turn comes first; without it nothing is said of places in a queue
  std::string elsewhere;          ///< why it is moved where it is: "of the experts with room it scores best here"
  std::optional<int64_t> slots;   ///< places of each expert; unknown = as many as it kept of those that asked
  int64_t n_devices = 1;          ///< it stays on the device of the expert that it went to
};

}  // namespace collegium::route
