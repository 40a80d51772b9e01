// The decision: who does the work. Made once, kept as data, and read by everything else: losses, dispatch,
// counters, metrics, traces and explanations have no other source, so none can describe another dispatch.
//
// N tokens, E experts, R kept assignments, F of them fill-ins that nobody asked for, Q dropped ones, A asked ones:
// R - F + Q = A.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "collegium/kernels/assignments.h"

namespace collegium::route {

using at::Tensor;

/// What a selector asks for, in any order. All of length A and without gradient.
struct Assignments {
  Tensor token_A;   ///< int64 in [0, N)
  Tensor expert_A;  ///< int64 in [0, E)
  Tensor rank_A;    ///< int64, 0 = first choice of the chooser (the token, or the expert in expert choice)
  Tensor score_A;   ///< selection score: what the selector compared, bias included
  Tensor margin_A;  ///< how far the score may fall before the assignment is lost; +inf without a rival
};

/// Why an assignment was dropped. Values are part of the trace format.
enum class DropReason : int64_t { capacity = 1 };

/// Assignments that were asked for and not kept.
struct Dropped {
  Tensor token_Q, expert_Q, rank_Q, score_Q, margin_Q;
  Tensor reason_Q;  ///< int64, DropReason
};

/// Immutable. Kept assignments are sorted by expert, inside an expert by slot.
class Decision {
 public:
  Decision() = default;

  /// Sorts what was asked for by expert, then by token position; everything is kept, gates are not set yet.
  static Decision make(const Assignments& asked, int64_t n_tokens, int64_t n_experts);
  /// The same of what is in that order already.
  static Decision of_sorted(kernels::SortedAssignments rows, int64_t n_tokens, int64_t n_experts);

  /// Rebuilds a decision from its parts (trace reader, capacity stages). The kept part must be sorted by expert.
  struct Parts {
    int64_t n_tokens = 0, n_experts = 0;
    Tensor token_R, expert_R, gate_R, rank_R, slot_R, score_R, margin_R;
    Tensor wanted_R;  ///< what was asked for, where a capacity stage moved or added some: an expert, or -1 =
                      ///< nobody asked, it fills a free slot; undefined = expert_R everywhere
    Dropped dropped;
  };
  static Decision from_parts(Parts parts);

  int64_t n_tokens() const { return parts_.n_tokens; }
  int64_t n_experts() const { return parts_.n_experts; }
  int64_t n_kept() const { return parts_.token_R.defined() ? parts_.token_R.size(0) : 0; }
  int64_t n_dropped() const { return parts_.dropped.token_Q.defined() ? parts_.dropped.token_Q.size(0) : 0; }
  int64_t n_filled() const;  ///< kept assignments that fill free slots without having been asked for
  int64_t n_asked() const { return n_kept() - n_filled() + n_dropped(); }

  const Tensor& token_R() const { return parts_.token_R; }
  const Tensor& expert_R() const { return parts_.expert_R; }
  const Tensor& gate_R() const { return parts_.gate_R; }  ///< carries the router's gradient
  const Tensor& rank_R() const { return parts_.rank_R; }
  const Tensor& slot_R() const { return parts_.slot_R; }  ///< place in the expert's buffer, from 0
  const Tensor& score_R() const { return parts_.score_R; }
  const Tensor& margin_R() const { return parts_.margin_R; }
  const Tensor& wanted_R() const { return parts_.wanted_R.defined() ? parts_.wanted_R : parts_.expert_R; }
  bool is_rerouted() const { return parts_.wanted_R.defined(); }  ///< some assignment went elsewhere than asked
  const Tensor& offset_E1() const { return offset_E1_; }          ///< int64 [E+1] on the CPU: rows of expert e
  const Dropped& dropped() const { return parts_.dropped; }

  Tensor kept_E() const;  ///< int64 [E], assignments each expert works on; on the CPU
  /// int64 [E], assignments asked of each expert, dropped ones included, moved ones where they were asked; on the CPU.
  Tensor asked_E() const;

  /// The same decision with gate weights: gate_R of length R, any floating dtype, may carry a gradient.
  Decision with_gates(Tensor gate_R) const;

  /// Without the assignments to experts from n_experts on, which are then unknown: neither kept nor dropped.
  Decision only_experts(int64_t n_experts) const;

  /// The same with expert e called (e + shift) mod n_experts.
  Decision turned(int64_t shift) const;

  /// Splits by `keep_R` (bool [R]): the rest joins the dropped ones with `reason`. Slots are renumbered.
  Decision keep_only(const Tensor& keep_R, DropReason reason) const;

 private:
  Parts parts_;
  Tensor offset_E1_;
};

}  // namespace collegium::route
