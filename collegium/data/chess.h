// Chess as text whose meaning is known: the rules, games in movetext, and the board behind every character of a game.
//
// Squares are 0 to 63: a1 = 0, b1 = 1, ..., h8 = 63.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "collegium/base/random.h"

namespace collegium::data::chess {

/// Without colour; on a board white is positive and black negative.
enum Piece : int8_t { none = 0, pawn = 1, knight = 2, bishop = 3, rook = 4, queen = 5, king = 6 };

struct Move {
  int8_t from = 0, to = 0;
  int8_t promotion = none;
  bool operator==(const Move&) const = default;
};

/// A position with all that the rules ask, but repetition.
class Position {
 public:
  /// The start of a game.
  static Position start();
  /// Reads Forsyth-Edwards notation (its move counters are not needed); a usage Error says what is wrong with it.
  static Position from_fen(std::string_view fen);

  /// Positive = white's.
  int piece(int square) const { return board_[static_cast<size_t>(square)]; }
  bool white_to_move() const { return white_; }
  /// Right to castle on this side, king and rook unmoved; it may still be barred now.
  bool may_castle(bool white, bool king_side) const { return castling_[(white ? 0 : 2) + (king_side ? 0 : 1)]; }
  /// Half-moves since the last capture or pawn move.
  int quiet_moves() const { return quiet_; }
  bool is_attacked(int square, bool by_white) const;
  /// The side to move is in check.
  bool in_check() const;

  /// In order of `from`, then `to`, then promotion.
  std::vector<Move> legal_moves() const;
  Position after(const Move& move) const;

  /// Standard algebraic notation, "Nbd7", "exd8=Q+", "O-O". `move` must be legal.
  std::string san(const Move& move) const;
  /// The legal move that `san` names, check marks ignored; none when there is no such move or more than one.
  std::optional<Move> read_san(std::string_view san) const;

 private:
  std::vector<Move> moves_of_pieces() const;
  int king_of(bool white) const;

  std::array<int8_t, 64> board_{};
  std::array<bool, 4> castling_{};  // white short, white long, black short, black long
  int8_t passed_ = -1;              // square behind a pawn that has just moved two
  int16_t quiet_ = 0;
  bool white_ = true;
};

/// A game of at most `max_moves` half-moves as movetext, "1.e4 e5 2.Nf3 Nc6": moves drawn by `random`, with a taste for
/// won material, safe squares, development and the centre. Ends with mate, stalemate, 50 quiet moves or bare kings.
std::string play(const Random& random, int max_moves);

class UciEngine;

/// The same, but after `opening` half-moves of that kind, which `random` draws, an engine chooses, for both sides,
/// after looking at `nodes` positions a move.
std::string play(UciEngine& engine, int64_t nodes, const Random& random, int opening, int max_moves);

/// What a character of movetext knows of the game: the position before white's n-th move, at the '.' of "n.".
struct Reading {
  int64_t offset = 0;  ///< of the '.', in bytes
  Position position;
};

/// The positions that `movetext` goes through, as far as its moves are legal.
std::vector<Reading> read_game(std::string_view movetext);

}  // namespace collegium::data::chess
