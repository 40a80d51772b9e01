#include "cli/built_from.h"

#include "generated/built_from.h"

namespace collegium::cli {

BuiltFrom built_from() {
  return {COLLEGIUM_COMMIT, COLLEGIUM_CODE};
}

}  // namespace collegium::cli
