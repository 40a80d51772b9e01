// The headers that nearly every file needs; one precompiled header serves all rooms in the dev preset.
#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>
