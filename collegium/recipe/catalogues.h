// Every catalogue in one list, for help, docs, completion and Python.
#pragma once
#include <functional>
#include <string_view>
#include <vector>

#include "collegium/base/catalogue.h"

namespace collegium {

/// A list of mechanisms without its types.
struct Catalogue {
  std::string_view name;      ///< "routers"
  std::string_view singular;  ///< "router"
  std::vector<EntryInfo> entries;
  /// Every field of a component with its value; throws a usage Error for an unknown name or a bad field.
  std::function<Table(const Named&)> resolve;
};

/// All catalogues in the order of the rooms.
const std::vector<Catalogue>& catalogues();

/// The entries of all catalogues, catalogue by catalogue.
std::vector<EntryInfo> all_entries();

/// A component with every field written out, nested components too: what a run stores as its configuration.
Table resolve_component(std::string_view catalogue, const Named& named);

/// The same for a config that was written out by `write_config`: fills in its components.
Table resolve_fields(Table written, const std::vector<FieldInfo>& fields, std::string_view path);

}  // namespace collegium
