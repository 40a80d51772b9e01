#include "collegium/data/uci.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "collegium/base/error.h"

namespace collegium::data::chess {
namespace {

constexpr int kPatience = 30'000;  // milliseconds

// Starts `program` with `channel` as its input and output. 0 when it is not there.
pid_t start(const std::string& program, int channel) {
  std::array<char*, 2> argv = {const_cast<char*>(program.c_str()), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, channel, 0);
  posix_spawn_file_actions_adddup2(&actions, channel, 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int code = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (code == 0) return child;
  if (code == ENOENT || code == EACCES) return 0;
  fail(ErrorKind::io, program, ": cannot be started: ", std::strerror(code));
}

}  // namespace

std::string uci_text(const Move& move) {
  std::string out;
  for (const int square : {move.from, move.to}) {
    out += static_cast<char>('a' + square % 8);
    out += static_cast<char>('1' + square / 8);
  }
  if (move.promotion != none) out += " pnbrqk"[move.promotion];
  return out;
}

UciEngine::UciEngine(const std::vector<std::string>& programs) {
  // A socket rather than pipes: writing to an engine that has ended is then an error and no signal.
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
    fail(ErrorKind::io, "no channel to a chess engine: ", std::strerror(errno));
  channel_ = ends[0];
  for (const auto& program : programs)
    if (child_ == 0 && (child_ = start(program, ends[1])) != 0) program_ = program;
  ::close(ends[1]);
  try {
    if (child_ == 0) fail(ErrorKind::io, "no chess engine is here: ", join(programs, " and "), " cannot be run");
    say("uci");
    for (auto said = line(); said != "uciok"; said = line())
      if (said.starts_with("id name ")) name_ = said.substr(8);
    say("setoption name Threads value 1");
    say("setoption name Hash value 16");
    say("isready");
    await("readyok");
  } catch (...) {
    release();
    throw;
  }
}

UciEngine::~UciEngine() {
  release();
}

void UciEngine::release() {
  if (channel_ >= 0) ::close(std::exchange(channel_, -1));
  if (child_ <= 0) return;
  ::kill(child_, SIGKILL);  // it has nothing to save
  while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
  child_ = 0;
}

void UciEngine::new_game() {
  say("ucinewgame");
  say("isready");
  await("readyok");
}

Move UciEngine::best_move(std::span<const Move> moves, const Position& now, int64_t nodes) {
  std::string position = "position startpos";
  if (!moves.empty()) position += " moves";
  for (const auto& move : moves) position += " " + uci_text(move);
  say(position);
  say(text("go nodes ", nodes));
  const auto said = await("bestmove ").substr(std::string_view("bestmove ").size());
  const auto word = said.substr(0, said.find(' '));
  const auto legal = now.legal_moves();
  const auto found = std::ranges::find(legal, word, uci_text);
  if (found == legal.end()) fail(ErrorKind::data, program_, ": says '", word, "', which is no legal move there");
  return *found;
}

void UciEngine::say(const std::string& words) {
  const auto sent = words + "\n";
  for (size_t at = 0; at < sent.size();) {
    const auto n = ::send(channel_, sent.data() + at, sent.size() - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, program_, ": the chess engine does not listen: ", std::strerror(errno));
    at += static_cast<size_t>(n);
  }
}

std::string UciEngine::line() {
  size_t end = 0;
  while ((end = pending_.find('\n')) == std::string::npos) {
    pollfd waiting{.fd = channel_, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&waiting, 1, kPatience);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0)
      fail(ErrorKind::io, program_, ": the chess engine has been silent for ", kPatience / 1000, " seconds");
    std::array<char, 4096> block{};
    const auto n = ::recv(channel_, block.data(), block.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(ErrorKind::io, program_, ": the chess engine ended before it answered");
    pending_.append(block.data(), static_cast<size_t>(n));
  }
  auto out = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  if (out.ends_with('\r')) out.pop_back();
  return out;
}

std::string UciEngine::await(std::string_view word) {
  auto said = line();
  while (!said.starts_with(word)) said = line();
  return said;
}

}  // namespace collegium::data::chess
