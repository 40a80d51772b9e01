// What the routers of one model have in common. The layer that asks for a part first makes it and lists its parameters;
// the others use the same tensors, so gradients of all layers meet in them.
#pragma once
#include <any>
#include <map>
#include <memory>
#include <string>

namespace collegium::route {

class SharedParts {
 public:
  template <class Part>
  struct Share {
    std::shared_ptr<Part> part;
    bool is_holder = false;  ///< whoever made it lists its parameters
  };
  /// The part of this name, made by `make() -> std::shared_ptr<Part>` the first time. A name stands for one type.
  template <class Part, class Make>
  Share<Part> get(const std::string& name, Make&& make) {
    const auto found = parts_.find(name);
    if (found != parts_.end()) return {std::any_cast<std::shared_ptr<Part>>(found->second)};
    std::shared_ptr<Part> made = make();
    parts_.emplace(name, made);
    return {std::move(made), true};
  }

 private:
  std::map<std::string, std::any> parts_;
};

}  // namespace collegium::route
