// What this program was built from: results must name the code that made them, not the folder it was run in.
#pragma once
#include <string>

namespace collegium::cli {

struct BuiltFrom {
  std::string commit;  ///< with "-dirty" where tracked files differed; empty = built outside a repository
  std::string code;    ///< names the tree below collegium/; empty where it differed from the commit
};

BuiltFrom built_from();

}  // namespace collegium::cli
