// A chess engine that speaks the Universal Chess Interface, run as another program and asked for moves.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "collegium/data/chess.h"

namespace collegium::data::chess {

/// A move as UCI writes it: "e2e4", "e7e8q". Castling is the king's move.
std::string uci_text(const Move& move);

class UciEngine {
 public:
  /// Starts the first of `programs` that is there (each a path, or a name searched in PATH) with one thread and
  /// 16 MiB of memory for what it remembers. An Error(io) when none is there or it does not answer.
  explicit UciEngine(const std::vector<std::string>& programs);
  ~UciEngine();
  UciEngine(const UciEngine&) = delete;
  UciEngine& operator=(const UciEngine&) = delete;

  /// As it calls itself: "Stockfish 15.1".
  const std::string& name() const { return name_; }
  /// Forgets what it learned in the games before, so that a game does not depend on them.
  void new_game();
  /// Its move in `now`, where `moves` lead to from the start of the game, after looking at `nodes` positions. With one
  /// thread the same question gets the same answer. An Error(io) when it ends or is silent for half a minute, an
  /// Error(data) when its move is not legal. There must be a legal move.
  Move best_move(std::span<const Move> moves, const Position& now, int64_t nodes);

 private:
  void release();
  void say(const std::string& line);
  std::string line();
  /// Reads lines until one begins with `word`, and returns it.
  std::string await(std::string_view word);

  std::string program_, name_, pending_;
  int channel_ = -1;
  int child_ = 0;
};

}  // namespace collegium::data::chess
