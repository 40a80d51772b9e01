#include "collegium/data/uci.h"

#include "collegium/data/chess.h"
#include "tests/data/helpers.h"

using namespace collegium;
using namespace collegium::data;
using namespace collegium::data::test;
namespace fs = std::filesystem;

namespace {

// An engine that answers every question with one move.
std::string fake_engine(const Scratch& scratch, const std::string& answer_to_go, const std::string& name = "Fake 1.0") {
  const auto file = scratch.write("engine",
                                  "#!/bin/sh\n"
                                  "while read -r line; do\n"
                                  "  case \"$line\" in\n"
                                  "    uci) echo 'id name " +
                                      name +
                                      "'; echo 'option name Hash'; echo uciok ;;\n"
                                      "    isready) echo readyok ;;\n"
                                      "    go*) echo 'info depth 1'; " +
                                      answer_to_go +
                                      " ;;\n"
                                      "  esac\n"
                                      "done\n");
  fs::permissions(file, fs::perms::owner_all);
  return file.string();
}

}  // namespace

TEST_CASE("moves as an engine writes them") {
  using namespace chess;
  const auto first = Position::start().read_san("e4");
  REQUIRE(first);
  CHECK(uci_text(*first) == "e2e4");
  const auto promotes = Position::from_fen("7k/P7/8/8/8/8/8/K7 w - - 0 1").read_san("a8=Q");
  REQUIRE(promotes);
  CHECK(uci_text(*promotes) == "a7a8q");
}

TEST_CASE("an engine is asked, and its answer has to be legal") {
  const Scratch scratch;
  chess::UciEngine engine(
      {(scratch.path() / "nothing").string(), fake_engine(scratch, "echo 'bestmove e2e4 ponder e7e5'")});
  CHECK(engine.name() == "Fake 1.0");
  engine.new_game();
  const auto start = chess::Position::start();
  const auto move = engine.best_move({}, start, 10);
  CHECK(chess::uci_text(move) == "e2e4");
  const std::vector<chess::Move> so_far = {move};
  CHECK(error_of([&] {
          engine.best_move(so_far, start.after(move), 10);
        }).find("says 'e2e4', which is no legal move") != std::string::npos);
}

TEST_CASE("an engine that is not there, or ends, is told") {
  const Scratch scratch;
  const auto nowhere = (scratch.path() / "nothing").string();
  CHECK(error_of([&] {
          chess::UciEngine engine({nowhere});
        }).find("no chess engine is here: " + nowhere + " cannot be run") != std::string::npos);
  chess::UciEngine engine({fake_engine(scratch, "exit 3")});
  CHECK(error_of([&] { engine.best_move({}, chess::Position::start(), 10); }).find("ended before it answered") !=
        std::string::npos);
  CHECK(error_of([&] {
          for (int i = 0; i < 100; ++i) engine.new_game();
        }).find("chess engine") != std::string::npos);
}

TEST_CASE("games of an engine that is missing or of another version: which package brings it") {
  const Scratch scratch;
  SourcePaths paths{.cache = scratch.path() / "cache", .offline = true};
  const auto* source = find_source("stockfish");
  REQUIRE(source);
  const auto told = [&] {
    try {
      locate(*source, paths);
    } catch (const Error& error) {
      return std::string(error.what()) + " / " + error.hint();
    }
    return std::string("no error");
  };
  paths.stockfish = {(scratch.path() / "nothing").string()};
  CHECK(told().starts_with("'stockfish' is not here: no chess engine is here: "));
  CHECK(told().find("apt-get install stockfish") != std::string::npos);
  paths.stockfish = {fake_engine(scratch, "echo bestmove e2e4", "Stockfish 99")};
  CHECK(told().find("the engine here is Stockfish 99, and the games of 'stockfish' are those of Stockfish 15.1") !=
        std::string::npos);
}

TEST_CASE("two games of the real engine: legal, repeatable, and not each other's" *
          doctest::skip(!fs::exists("/usr/games/stockfish"))) {
  const auto game = [](uint64_t seed) {
    chess::UciEngine engine({"/usr/games/stockfish"});
    return chess::play(engine, 20, Random(seed), 4, 16);
  };
  const auto first = game(1);
  CHECK(chess::read_game(first).size() == 8);
  CHECK(first == game(1));
  CHECK(first != game(2));
  CHECK(first.substr(0, first.find(" 3.")) == chess::play(Random(1), 4));
}
