// The rules of chess by the numbers that others have counted, notation there and back, games as a data set.
#include "collegium/data/chess.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "collegium/base/error.h"
#include "collegium/data/documents.h"
#include "tests/data/helpers.h"

namespace {

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::chess;
using collegium::data::test::Scratch;

int64_t leaves(const Position& position, int depth) {
  const auto moves = position.legal_moves();
  if (depth == 1) return static_cast<int64_t>(moves.size());
  int64_t n = 0;
  for (const auto& m : moves) n += leaves(position.after(m), depth - 1);
  return n;
}

Move move_of(const Position& position, std::string_view san) {
  const auto m = position.read_san(san);
  REQUIRE_MESSAGE(m, std::string(san));
  return *m;
}

}  // namespace

TEST_CASE("chess: as many move sequences as perft tables say") {
  // https://www.chessprogramming.org/Perft_Results: the start, "Kiwipete" and positions 3 to 5, where castling, en
  // passant and promotion meet pins and checks.
  CHECK(leaves(Position::start(), 3) == 8902);
  CHECK(leaves(Position::from_fen("r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq -"), 3) == 97862);
  CHECK(leaves(Position::from_fen("8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - -"), 4) == 43238);
  CHECK(leaves(Position::from_fen("r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq -"), 3) == 9467);
  CHECK(leaves(Position::from_fen("rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ -"), 3) == 62379);
}

TEST_CASE("chess: notation names one move, as short as it may") {
  const auto knights = Position::from_fen("4k3/8/8/8/8/8/8/N3K2N w - -");
  CHECK(knights.san({0, 10, none}) == "Nc2");
  const auto files = Position::from_fen("4k3/8/8/8/8/8/4K3/R6R w - -");
  CHECK(files.san({0, 3, none}) == "Rad1");
  const auto ranks = Position::from_fen("R7/4k3/8/8/8/8/4K3/R7 w - -");
  CHECK(ranks.san({0, 24, none}) == "R1a4");
  const auto queens = Position::from_fen("7k/8/8/Q6Q/8/8/8/Q3K3 w - -");
  CHECK(queens.san({32, 36, none}) == "Qa5e5+");
  const auto promotes = Position::from_fen("3r3k/4P3/8/8/8/8/8/4K3 w - -");
  CHECK(promotes.san({52, 59, queen}) == "exd8=Q+");
  CHECK_FALSE(promotes.read_san("exd8"));
  const auto passes = Position::from_fen("4k3/8/8/3pP3/8/8/8/4K3 w - d6");
  CHECK(passes.san({36, 43, none}) == "exd6");
  CHECK(passes.after(move_of(passes, "exd6")).piece(35) == 0);
  CHECK(Position::from_fen("6k1/5ppp/8/8/8/8/8/R3K3 w Q -").san({0, 56, none}) == "Ra8#");
  for (const auto* san : {"O-O", "O-O-O"}) {
    const auto castled = Position::from_fen("r3k2r/8/8/8/8/8/8/R3K2R w KQkq -");
    const auto after = castled.after(move_of(castled, san));
    CHECK(after.piece(4) == 0);
    CHECK_FALSE(after.may_castle(true, true));
    CHECK(after.may_castle(false, true));
  }
  for (const auto* bad : {"e5", "Nd4", "O-O", "exd3", "", "Nf"}) CHECK_FALSE(Position::start().read_san(bad));
}

TEST_CASE("chess: bad positions are refused with the reason") {
  const auto said = [](std::string_view fen) {
    try {
      Position::from_fen(fen);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(said("8/8/8 w").find("needs board, side, castling") != std::string::npos);
  CHECK(said("8/8/8/8/8/8/8/8 w - -").find("both sides need a king") != std::string::npos);
  CHECK(said("x7/8/8/8/8/8/8/8 w - -").find("bad board at 'x'") != std::string::npos);
  CHECK(said("4k3/8/8/8/8/8/8/4K3 x - -").find("w or b, got 'x'") != std::string::npos);
}

TEST_CASE("chess: a game is read to the position before each of white's moves") {
  const std::string text = "1.e4 e5 2.Nf3 Nc6 3.Bb5";
  const auto readings = read_game(text);
  REQUIRE(readings.size() == 3);
  for (const auto& r : readings) CHECK(text[static_cast<size_t>(r.offset)] == '.');
  CHECK(readings[0].position.piece(12) == pawn);
  CHECK(readings[1].position.piece(28) == pawn);
  CHECK(readings[2].position.piece(42) == -knight);
  CHECK(read_game("1.e4 e5 2.Ke3 Nc6 3.Bb5").size() == 2);  // no such move
  CHECK(read_game("Now is the winter. of our discontent").empty());
}

TEST_CASE("chess: games that are played here are legal from end to end, and each its own") {
  std::set<std::string> games;
  for (uint64_t i = 0; i < 20; ++i) {
    const auto game = play(Random(3).at(i), 40);
    CHECK(games.insert(game).second);
    CHECK(static_cast<int64_t>(read_game(game).size()) == std::count(game.begin(), game.end(), '.'));
    CHECK(play(Random(3).at(i), 40) == game);
    CHECK(game.starts_with(play(Random(3).at(i), 10)));
  }
}

TEST_CASE("chess: the data set is made once, held to its hash, one document a game") {
  const Scratch scratch;
  const SourcePaths paths{.cache = scratch.path() / "cache", .offline = true};
  const auto& source = *find_source("chess");
  const auto file = locate(source, paths);
  CHECK(file == scratch.path() / "cache/chess-1.txt");
  const auto documents = read_source("chess", paths).documents;
  REQUIRE(static_cast<int64_t>(documents.size()) == source.n_documents);
  CHECK(documents[7].id == "0007");
  CHECK(documents[0].text.starts_with("1."));
  CHECK(read_game(documents[3999].text).size() > 1);
}
