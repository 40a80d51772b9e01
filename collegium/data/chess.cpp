#include "collegium/data/chess.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <tuple>

#include "collegium/base/error.h"
#include "collegium/data/uci.h"

namespace collegium::data::chess {
namespace {

constexpr std::string_view kLetters = " PNBRQK";
constexpr std::array<std::array<int, 2>, 8> kRays = {
    {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {1, -1}, {-1, 1}, {-1, -1}}};  // straight ones first
constexpr std::array<std::array<int, 2>, 8> kKnight = {
    {{1, 2}, {2, 1}, {2, -1}, {1, -2}, {-1, -2}, {-2, -1}, {-2, 1}, {-1, 2}}};

int file_of(int square) {
  return square % 8;
}
int rank_of(int square) {
  return square / 8;
}
int square_at(int file, int rank) {
  return file >= 0 && file < 8 && rank >= 0 && rank < 8 ? rank * 8 + file : -1;
}
std::string square_name(int square) {
  return {static_cast<char>('a' + file_of(square)), static_cast<char>('1' + rank_of(square))};
}
// Whether `kind` runs along ray number `ray` of kRays.
bool runs_along(int kind, size_t ray) {
  return kind == queen || kind == (ray < 4 ? rook : bishop);
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find(' ', at), text.size());
    if (end > at) out.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

}  // namespace

Position Position::start() {
  return from_fen("rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq -");
}

Position Position::from_fen(std::string_view fen) {
  const auto parts = words_of(fen);
  require(parts.size() >= 4, "chess: a position needs board, side, castling and en passant square, got '", fen, "'");
  Position out;
  int file = 0, rank = 7;
  for (const char c : parts[0]) {
    if (c == '/') {
      file = 0, --rank;
    } else if (c >= '1' && c <= '8') {
      file += c - '0';
    } else {
      const bool is_black = c >= 'a';
      const auto kind = kLetters.find(static_cast<char>(is_black ? c - 'a' + 'A' : c));
      const auto square = square_at(file++, rank);
      require(kind != std::string_view::npos && kind > 0 && square >= 0, "chess: '", fen, "': bad board at '", c, "'");
      out.board_[static_cast<size_t>(square)] = static_cast<int8_t>(is_black ? -static_cast<int>(kind) : kind);
    }
  }
  require(out.king_of(true) >= 0 && out.king_of(false) >= 0, "chess: '", fen, "': both sides need a king");
  require(parts[1] == "w" || parts[1] == "b", "chess: '", fen, "': the side to move is w or b, got '", parts[1], "'");
  out.white_ = parts[1] == "w";
  for (const char c : parts[2])
    if (const auto i = std::string_view("KQkq").find(c); i != std::string_view::npos) out.castling_[i] = true;
  if (parts[3].size() == 2) {
    const auto square = square_at(parts[3][0] - 'a', parts[3][1] - '1');
    require(square >= 0, "chess: '", fen, "': there is no square '", parts[3], "'");
    out.passed_ = static_cast<int8_t>(square);
  }
  return out;
}

int Position::king_of(bool white) const {
  const auto at = std::find(board_.begin(), board_.end(), static_cast<int8_t>(white ? king : -king));
  return at == board_.end() ? -1 : static_cast<int>(at - board_.begin());
}

bool Position::is_attacked(int square, bool by_white) const {
  const int sign = by_white ? 1 : -1, file = file_of(square), rank = rank_of(square);
  for (const int side : {-1, 1})
    if (const auto from = square_at(file + side, rank - sign); from >= 0 && piece(from) == sign * pawn) return true;
  for (const auto& [df, dr] : kKnight)
    if (const auto from = square_at(file + df, rank + dr); from >= 0 && piece(from) == sign * knight) return true;
  for (size_t ray = 0; ray < kRays.size(); ++ray)
    for (int i = 1; i < 8; ++i) {
      const auto from = square_at(file + i * kRays[ray][0], rank + i * kRays[ray][1]);
      if (from < 0) break;
      const auto kind = piece(from) * sign;
      if (kind > 0 && (runs_along(kind, ray) || (kind == king && i == 1))) return true;
      if (kind != 0) break;
    }
  return false;
}

bool Position::in_check() const {
  return is_attacked(king_of(white_), !white_);
}

std::vector<Move> Position::moves_of_pieces() const {
  std::vector<Move> out;
  const int sign = white_ ? 1 : -1;
  const auto add = [&](int from, int to, int promotion = none) {
    out.push_back({static_cast<int8_t>(from), static_cast<int8_t>(to), static_cast<int8_t>(promotion)});
  };
  for (int from = 0; from < 64; ++from) {
    const auto kind = piece(from) * sign;
    if (kind <= 0) continue;
    const int file = file_of(from), rank = rank_of(from);
    if (kind == pawn) {
      const auto add_pawn = [&](int to) {
        const bool promotes = rank_of(to) == (white_ ? 7 : 0);
        if (!promotes) add(from, to);
        for (int p = knight; promotes && p <= queen; ++p) add(from, to, p);
      };
      const auto one = square_at(file, rank + sign);
      if (one >= 0 && piece(one) == none) {
        add_pawn(one);
        const auto two = square_at(file, rank + 2 * sign);
        if (rank == (white_ ? 1 : 6) && piece(two) == none) add(from, two);
      }
      for (const int side : {-1, 1}) {
        const auto to = square_at(file + side, rank + sign);
        if (to >= 0 && (piece(to) * sign < 0 || (to == passed_ && piece(to) == none))) add_pawn(to);
      }
    } else if (kind == knight) {
      for (const auto& [df, dr] : kKnight)
        if (const auto to = square_at(file + df, rank + dr); to >= 0 && piece(to) * sign <= 0) add(from, to);
    } else {
      for (size_t ray = 0; ray < kRays.size(); ++ray) {
        if (kind != king && !runs_along(kind, ray)) continue;
        for (int i = 1; i < (kind == king ? 2 : 8); ++i) {
          const auto to = square_at(file + i * kRays[ray][0], rank + i * kRays[ray][1]);
          if (to < 0 || piece(to) * sign > 0) break;
          add(from, to);
          if (piece(to) != none) break;
        }
      }
    }
    // A king castles out of no check, over no attacked square; where it lands is checked with all other moves.
    if (kind == king && from == (white_ ? 4 : 60) && !is_attacked(from, !white_))
      for (const bool short_side : {true, false}) {
        if (!may_castle(white_, short_side) || is_attacked(from + (short_side ? 1 : -1), !white_)) continue;
        const auto corner = short_side ? from + 3 : from - 4;
        bool is_free = piece(corner) == sign * rook;
        for (int s = std::min(from, corner) + 1; s < std::max(from, corner); ++s) is_free = is_free && piece(s) == none;
        if (is_free) add(from, from + (short_side ? 2 : -2));
      }
  }
  return out;
}

std::vector<Move> Position::legal_moves() const {
  auto moves = moves_of_pieces();
  std::erase_if(moves, [&](const Move& m) {
    const auto next = after(m);
    return next.is_attacked(next.king_of(white_), !white_);
  });
  std::sort(moves.begin(), moves.end(), [](const Move& a, const Move& b) {
    return std::tie(a.from, a.to, a.promotion) < std::tie(b.from, b.to, b.promotion);
  });
  return moves;
}

Position Position::after(const Move& m) const {
  auto next = *this;
  const auto at = [&](int square) -> int8_t& { return next.board_[static_cast<size_t>(square)]; };
  const int sign = white_ ? 1 : -1, kind = piece(m.from) * sign;
  const bool takes = piece(m.to) != none;
  at(m.to) = static_cast<int8_t>(m.promotion != none ? sign * m.promotion : piece(m.from));
  at(m.from) = none;
  if (kind == pawn && m.to == passed_ && file_of(m.from) != file_of(m.to) && !takes) at(m.to - 8 * sign) = none;
  if (kind == king && std::abs(m.to - m.from) == 2) {
    const bool short_side = m.to > m.from;
    at(short_side ? m.from + 1 : m.from - 1) = static_cast<int8_t>(sign * rook);
    at(short_side ? m.from + 3 : m.from - 4) = none;
  }
  next.passed_ = static_cast<int8_t>(kind == pawn && std::abs(m.to - m.from) == 16 ? (m.from + m.to) / 2 : -1);
  // A king or rook that moves, or a rook that is taken, ends the right.
  constexpr std::array<std::array<int, 2>, 4> kHomes = {{{4, 7}, {4, 0}, {60, 63}, {60, 56}}};
  for (size_t i = 0; i < 4; ++i)
    for (const int home : kHomes[i])
      if (m.from == home || m.to == home) next.castling_[i] = false;
  next.quiet_ = static_cast<int16_t>(kind == pawn || takes ? 0 : quiet_ + 1);
  next.white_ = !white_;
  return next;
}

std::string Position::san(const Move& m) const {
  const int sign = white_ ? 1 : -1, kind = piece(m.from) * sign;
  std::string out;
  if (kind == king && std::abs(m.to - m.from) == 2) {
    out = m.to > m.from ? "O-O" : "O-O-O";
  } else {
    const bool takes = piece(m.to) != none || (kind == pawn && file_of(m.from) != file_of(m.to));
    if (kind == pawn) {
      if (takes) out += square_name(m.from)[0];
    } else {
      out += kLetters[static_cast<size_t>(kind)];
      bool is_shared = false, shares_file = false, shares_rank = false;
      for (const auto& other : legal_moves()) {
        if (other.to != m.to || other.from == m.from || piece(other.from) != piece(m.from)) continue;
        is_shared = true;
        shares_file = shares_file || file_of(other.from) == file_of(m.from);
        shares_rank = shares_rank || rank_of(other.from) == rank_of(m.from);
      }
      if (is_shared && (!shares_file || shares_rank)) out += square_name(m.from)[0];
      if (is_shared && shares_file) out += square_name(m.from)[1];
    }
    if (takes) out += 'x';
    out += square_name(m.to);
    if (m.promotion != none) out += {'=', kLetters[static_cast<size_t>(m.promotion)]};
  }
  const auto next = after(m);
  if (next.in_check()) out += next.legal_moves().empty() ? '#' : '+';
  return out;
}

std::optional<Move> Position::read_san(std::string_view san) const {
  while (!san.empty() && (san.back() == '+' || san.back() == '#')) san.remove_suffix(1);
  const int sign = white_ ? 1 : -1;
  std::optional<Move> found;
  for (const auto& m : legal_moves()) {
    const int kind = piece(m.from) * sign;
    bool fits = false;
    if (kind == king && std::abs(m.to - m.from) == 2) {
      fits = san == (m.to > m.from ? "O-O" : "O-O-O");
    } else {
      // Piece, as much of its square as is given, target, promotion.
      auto rest = san;
      fits = true;
      if (kind != pawn) {
        fits = !rest.empty() && rest[0] == kLetters[static_cast<size_t>(kind)];
        if (fits) rest.remove_prefix(1);
      }
      if (fits && m.promotion != none) {
        fits = rest.size() > 2 &&
               rest.substr(rest.size() - 2) == std::string{'=', kLetters[static_cast<size_t>(m.promotion)]};
        if (fits) rest.remove_suffix(2);
      }
      fits = fits && rest.size() >= 2 && rest.substr(rest.size() - 2) == square_name(m.to);
      if (fits) {
        rest.remove_suffix(2);
        const bool takes = piece(m.to) != none || (kind == pawn && file_of(m.from) != file_of(m.to));
        if (!rest.empty() && rest.back() == 'x') rest.remove_suffix(1);
        const auto from = square_name(m.from);
        fits = rest == from || rest.empty() || (rest.size() == 1 && from.find(rest[0]) != std::string::npos);
        if (kind == pawn && takes && rest.empty()) fits = false;  // "d5" is no capture
      }
    }
    if (!fits) continue;
    if (found) return {};
    found = m;
  }
  return found;
}

namespace {

// Hundredths of a pawn. All of play() is done in whole numbers, so that a game is the same on every machine.
constexpr std::array<int, 7> kWorth = {0, 100, 300, 300, 500, 900, 0};

int worth(int piece) {
  return kWorth[static_cast<size_t>(std::abs(piece))];
}

// How near the centre a square is, 0 to 12.
int centrality(int square) {
  return 14 - std::abs(2 * file_of(square) - 7) - std::abs(2 * rank_of(square) - 7);
}

// What speaks for a move at first sight.
int taste(const Position& p, const Move& m) {
  const bool white = p.white_to_move();
  const int kind = std::abs(p.piece(m.from));
  const auto next = p.after(m);
  int out = worth(p.piece(m.to));
  if (m.promotion != none) out += worth(m.promotion) - worth(pawn);
  // A piece that stands attacked is lost, a defended one half the time.
  if (next.is_attacked(m.to, !white)) out -= worth(next.piece(m.to)) / (next.is_attacked(m.to, white) ? 2 : 1);
  if (p.is_attacked(m.from, !white)) out += worth(kind) * 3 / 10;
  if ((kind == knight || kind == bishop) && rank_of(m.from) == (white ? 0 : 7)) out += 60;
  out += 6 * (centrality(m.to) - centrality(m.from)) * (kind == king ? -1 : 1);
  if (kind == king) out += std::abs(m.to - m.from) == 2 ? 150 : -50;
  if (next.in_check()) out += 30;
  return out;
}

bool only_kings(const Position& p) {
  for (int s = 0; s < 64; ++s)
    if (p.piece(s) != none && std::abs(p.piece(s)) != king) return false;
  return true;
}

}  // namespace

namespace {

// Three draws below this are added to the taste for each move.
constexpr uint64_t kWhim = 90;

Move move_to_taste(const Position& position, const std::vector<Move>& moves, const Random& whim) {
  int best = std::numeric_limits<int>::min();
  Move chosen;
  for (size_t m = 0; m < moves.size(); ++m) {
    auto value = taste(position, moves[m]);
    for (uint64_t draw = 0; draw < 3; ++draw) value += static_cast<int>(whim.below(3 * m + draw, kWhim));
    if (value > best) best = value, chosen = moves[m];
  }
  return chosen;
}

// choose(number of the half-move, position, legal moves there) -> one of them
template <class Choose>
std::string played(int max_moves, const Choose& choose) {
  std::string out;
  auto position = Position::start();
  for (int i = 0; i < max_moves; ++i) {
    const auto moves = position.legal_moves();
    if (moves.empty() || position.quiet_moves() >= 100 || only_kings(position)) break;
    const Move chosen = choose(i, position, moves);
    out += i % 2 == 0 ? text(i > 0 ? " " : "", i / 2 + 1, ".") : " ";
    out += position.san(chosen);
    position = position.after(chosen);
  }
  return out;
}

}  // namespace

std::string play(const Random& random, int max_moves) {
  return played(max_moves, [&](int i, const Position& position, const std::vector<Move>& moves) {
    return move_to_taste(position, moves, random.at(static_cast<uint64_t>(i)));
  });
}

std::string play(UciEngine& engine, int64_t nodes, const Random& random, int opening, int max_moves) {
  engine.new_game();
  std::vector<Move> so_far;
  return played(max_moves, [&](int i, const Position& position, const std::vector<Move>& moves) {
    so_far.push_back(i < opening ? move_to_taste(position, moves, random.at(static_cast<uint64_t>(i)))
                                 : engine.best_move(so_far, position, nodes));
    return so_far.back();
  });
}

std::vector<Reading> read_game(std::string_view movetext) {
  std::vector<Reading> out;
  auto position = Position::start();
  for (size_t at = 0; at < movetext.size();) {
    const auto end = std::min(movetext.find(' ', at), movetext.size());
    auto word = movetext.substr(at, end - at);
    if (const auto dot = word.find('.'); dot != std::string_view::npos) {
      if (word.substr(0, dot) != std::to_string(out.size() + 1)) break;
      out.push_back({static_cast<int64_t>(at + dot), position});
      word.remove_prefix(dot + 1);
    }
    if (!word.empty()) {
      const auto move = position.read_san(word);
      if (!move) break;
      position = position.after(*move);
    }
    at = end + 1;
  }
  return out;
}

}  // namespace collegium::data::chess
