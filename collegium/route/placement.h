// Giving work to experts that still have room, after a limit: moves of what was dropped, and fill-ins.
//
// N tokens, E experts, M real tokens.
#pragma once
#include <functional>
#include <vector>

#include "collegium/route/stages.h"

namespace collegium::route {

class Placement {
 public:
  /// `limited`: what a limit of `slots` an expert left. scores.score_NE has at least its experts; null experts, the
  /// columns behind them, have no room.
  Placement(const Decision& limited, const Scores& scores, const Context& context, int64_t slots);

  /// Experts [begin, end) that a token may be moved to.
  struct Range {
    int64_t begin, end;
  };
  /// Each dropped assignment, by token, goes to the best expert of its range that has room and not yet that token. What
  /// finds none goes `beyond_slots` of the best one, or stays dropped; where every expert of the range has its token,
  /// it always does.
  void move_dropped(const std::function<Range(int64_t token)>& range_of, bool beyond_slots = false);

  /// Free slots go to the real tokens that score highest there and are not there yet, marked as nobody's wish.
  void fill_free();

  /// Place of a real token among the real ones, [0, M).
  int64_t place(int64_t token) const;
  int64_t n_real() const { return n_real_; }

  /// `limited` with what was moved and filled.
  Decision decision() const;

 private:
  char& is_there(int64_t token, int64_t expert) { return there_[static_cast<size_t>(token * E_ + expert)]; }
  void add(int64_t token, int64_t expert, int64_t rank, int64_t wanted, double margin);
  void fill(int64_t expert);

  Decision before_;
  int64_t E_, n_real_;
  Tensor near_NE_, score_NE_;  // as they came; on the CPU in double
  std::vector<int64_t> real_;  // numbers of the real tokens; empty = all are real, or none
  std::vector<char> there_;
  std::vector<int64_t> room_;
  std::vector<int64_t> lost_;  // what is still dropped
  std::vector<int64_t> token_, expert_, rank_, wanted_;
  std::vector<double> margin_;
};

}  // namespace collegium::route
