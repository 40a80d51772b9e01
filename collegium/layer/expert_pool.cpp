#include "collegium/layer/expert_pool.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace collegium::layer {

ExpertPool::Share ExpertPool::join(const Named& kind, int64_t n_experts, int64_t d_expert, const MoeLayer::Inputs& in,
                                   int64_t n_together) {
  ensure(n_joined_ < n_members(), "more layers join a pool of experts than it was made for");
  if (!experts_) {
    experts_ = make_experts(kind, n_members() * n_experts, d_expert, in, "experts", n_together);
    const at::NoGradGuard no_grad;
    const auto all = parameters_of(*experts_);
    for (int64_t m = 0; m < n_members(); ++m) {
      auto member = in;
      member.random = members_[static_cast<size_t>(m)];
      const auto own = make_experts(kind, n_experts, d_expert, member, "experts", n_together);
      const auto parts = parameters_of(*own);
      for (size_t i = 0; i < all.size(); ++i)
        all[i].tensor->slice(0, m * n_experts, (m + 1) * n_experts).copy_(*parts[i].tensor);
    }
    kind_ = kind, n_experts_ = n_experts, d_expert_ = d_expert, n_together_ = n_together;
  }
  require(kind == kind_ && n_experts == n_experts_ && d_expert == d_expert_ && n_together == n_together_,
          "layers that share experts must bring the same number of one kind and size: the first brought ", n_experts_,
          " '", kind_.name, "' of width ", d_expert_, ", this one brings ", n_experts, " '", kind.name, "' of width ",
          d_expert);
  const auto m = n_joined_++;
  return {.experts = experts_, .first = m * n_experts_, .is_holder = m == 0};
}

}  // namespace collegium::layer
