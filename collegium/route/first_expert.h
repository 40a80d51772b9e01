// One expert a token, where a figure needs one.
#pragma once
#include "collegium/route/decision.h"

namespace collegium::route {

/// The expert that counts most for each token: the highest gate, ties to the lower id; -1 without an expert. int64 [N]
Tensor first_expert(const Decision& decision);

}  // namespace collegium::route
