// One storage of experts for several layers: each layer brings its own E experts and may use those of all.
#pragma once
#include "collegium/layer/layer.h"
#include "collegium/layer/routed_part.h"

namespace collegium::layer {

class ExpertPool {
 public:
  /// `members`: the random stream of each layer that will join, in order, so that a layer's own experts start as they
  /// would without a pool.
  explicit ExpertPool(std::vector<Random> members) : members_(std::move(members)) {}

  struct Share {
    std::shared_ptr<Experts> experts;  ///< of all members, the first one's first
    int64_t first = 0;                 ///< where this member's own begin
    bool is_holder = false;            ///< this member lists the parameters of all
  };
  /// The next member's share. All members bring as many experts of one kind and size.
  Share join(const Named& kind, int64_t n_experts, int64_t d_expert, const MoeLayer::Inputs& in, int64_t n_together);

  int64_t n_members() const { return static_cast<int64_t>(members_.size()); }
  int64_t n_joined() const { return n_joined_; }

 private:
  std::vector<Random> members_;
  std::shared_ptr<Experts> experts_;
  Named kind_;
  int64_t n_experts_ = 0, d_expert_ = 0, n_together_ = 1, n_joined_ = 0;
};

}  // namespace collegium::layer
