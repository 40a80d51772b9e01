// A file system in memory that fails, crashes or loses power when told to.
//
// Each file and folder has two contents: what programs see, and what would survive a power cut. Only sync_file
// and sync_directory carry the first over to the second, as POSIX promises and no more.
#pragma once
#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "collegium/base/random.h"
#include "collegium/io/fs.h"

namespace collegium::test {

/// Thrown where the process "dies". No std::exception, so that nothing on the way handles it.
struct Crash {};

enum class Fault { crash, no_space, io_error };

/// How much of the failing call is done before it fails.
enum class Done { nothing, half, all };

/// What a power cut leaves of unsynced bytes and names.
enum class Survives {
  nothing,  ///< only what was synced
  all,      ///< everything: the process died, the computer did not
  random,   ///< of creations, removals and renames the first few, or any; each is done or not. Each file is old,
            ///< new, torn after some bytes, or has zeros in place of its tail
};

class FaultyFs final : public io::FileSystem {
  using Path = io::Path;
  using Bytes = io::Bytes;
  using Content = std::vector<std::byte>;

 public:
  FaultyFs() : root_(std::make_shared<Node>(true)) {}

  /// The call number `call` from now (0 is the next) fails; with `sticky` so do all after it.
  void arm(int64_t call, Fault fault, Done done = Done::nothing, bool sticky = false) {
    calls_ = 0, armed_ = call, fault_ = fault, done_ = done, sticky_ = sticky;
  }
  void disarm() { calls_ = 0, armed_ = -1; }
  int64_t calls() const { return calls_; }  ///< since arm or disarm
  bool has_failed() const { return armed_ >= 0 && calls_ > armed_; }

  /// Cuts the power: what does not survive is gone. Disarms.
  void lose_power(Survives survives, uint64_t seed = 0) {
    uint64_t drawn = 0;
    std::set<const Node*> seen;
    settle(root_, survives, Random(seed), drawn, seen);
    disarm();
  }

  /// Flips one bit of a file, in the memory and on the disk.
  void flip_bit(const Path& path, uint64_t bit) {
    auto& node = file(path, "flip");
    node.seen.at(bit / 8) ^= std::byte{1} << (bit % 8);
    node.safe = node.seen;
  }

  void write(const Path& path, std::span<const Bytes> parts) override {
    Content bytes;
    for (const auto part : parts) bytes.insert(bytes.end(), part.begin(), part.end());
    call("write", path, bytes.size(), [&](size_t n) {
      auto& node = make_file(path, "write");
      node.seen = {bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n)};
      node.n_held = 0;
    });
  }
  void append(const Path& path, Bytes bytes) override {
    call("append to", path, bytes.size(), [&](size_t n) {
      auto& seen = make_file(path, "append to").seen;
      seen.insert(seen.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
    });
  }
  void truncate(const Path& path, uint64_t size) override {
    call("truncate", path, 0, [&](size_t) {
      auto& node = file(path, "truncate");
      node.seen.resize(size);
      node.n_held = std::min<size_t>(node.n_held, size);
    });
  }
  void sync_file(const Path& path) override {
    call("sync", path, 0, [&](size_t) {
      auto& node = file(path, "sync");
      node.safe = node.seen;
      node.n_held = node.seen.size();
    });
  }
  void sync_directory(const Path& path) override {
    call("sync the folder", path, 0, [&](size_t) {
      auto& node = folder(path, "sync the folder");
      node.safe_names = node.names;
      node.changes.clear();
    });
  }
  void rename(const Path& from, const Path& to) override {
    call("rename", from, 0, [&](size_t) {
      auto& source = folder(io::parent_of(from), "rename");
      auto& target = folder(io::parent_of(to), "rename");
      const auto moved = source.names.find(from.filename().string());
      if (moved == source.names.end()) throw io::io_error("rename", from, ENOENT);
      const auto node = moved->second;
      const auto there = target.names.find(to.filename().string());
      if (there != target.names.end() && there->second->is_folder && !there->second->names.empty())
        throw io::io_error("rename", to, ENOTEMPTY);
      source.names.erase(moved);
      target.names[to.filename().string()] = node;
      ensure(&source == &target, "the faulty file system renames within one folder only");
      source.changes.push_back({from.filename().string(), to.filename().string(), node});
    });
  }
  void remove(const Path& path) override {
    call("remove", path, 0, [&](size_t) {
      file(path, "remove");
      folder(io::parent_of(path), "remove").erase(path.filename().string());
    });
  }
  void remove_all(const Path& path) override {
    const auto found = find(path);
    const size_t below = found ? found->names.size() : 0;
    call("remove", path, below, [&](size_t n) {
      if (!found) return;
      // From the back, so that a manifest is the last to go: a half-removed folder looks as whole as it can.
      for (size_t i = 0; i < n; ++i) found->erase(std::prev(found->names.end())->first);
      if (n == below) folder(io::parent_of(path), "remove").erase(path.filename().string());
    });
  }
  void create_directories(const Path& path) override {
    call("create the folder", path, 0, [&](size_t) {
      auto node = root_;
      for (const auto& name : names_of(path)) {
        if (!node->names.contains(name)) node->create(name, std::make_shared<Node>(true));
        node = node->names[name];
        if (!node->is_folder) throw io::io_error("create the folder", path, ENOTDIR);
      }
    });
  }
  bool exists(const Path& path) override {
    bool out = false;
    call("look at", path, 0, [&](size_t) { out = find(path) != nullptr; });
    return out;
  }
  std::vector<std::string> list(const Path& path) override {
    std::vector<std::string> out;
    call("list the folder", path, 0, [&](size_t) {
      for (const auto& [name, node] : folder(path, "list the folder").names) out.push_back(name);
    });
    return out;
  }
  uint64_t size(const Path& path) override {
    uint64_t out = 0;
    call("read", path, 0, [&](size_t) { out = file(path, "read").seen.size(); });
    return out;
  }
  void read(const Path& path, uint64_t offset, std::span<std::byte> out) override {
    call("read", path, 0, [&](size_t) {
      const auto& seen = file(path, "read").seen;
      if (offset > seen.size() || out.size() > seen.size() - offset)
        fail(ErrorKind::io, "cannot read ", path.string(), ": it ends before");
      std::copy_n(seen.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    });
  }

 private:
  struct Node;
  /// One change of names: a creation has no `from`, a removal no `to`.
  struct Change {
    std::string from, to;
    std::shared_ptr<Node> node;
  };
  struct Node {
    explicit Node(bool folder) : is_folder(folder) {}
    void create(const std::string& name, std::shared_ptr<Node> node) {
      names[name] = node;
      changes.push_back({"", name, std::move(node)});
    }
    void erase(const std::string name) {
      names.erase(name);
      changes.push_back({name, "", nullptr});
    }
    bool is_folder;
    Content seen, safe;
    size_t n_held = 0;  ///< first bytes that were synced and not written since: no power cut takes them
    std::map<std::string, std::shared_ptr<Node>> names, safe_names;
    std::vector<Change> changes;  ///< since the last sync, in order
  };

  /// Runs `act(n)`, n being how many of `amount` bytes or entries are to be done, unless this call is to fail.
  template <class Act>
  void call(std::string_view what, const Path& path, size_t amount, const Act& act) {
    const auto index = calls_++;
    if (armed_ < 0 || index < armed_ || (index > armed_ && !sticky_)) return act(amount);
    if (done_ == Done::all) act(amount);
    if (done_ == Done::half && amount > 1) act(amount / 2);
    if (fault_ == Fault::crash) throw Crash{};
    throw io::io_error(what, path, fault_ == Fault::no_space ? ENOSPC : EIO);
  }

  static std::vector<std::string> names_of(const Path& path) {
    std::vector<std::string> out;
    for (const auto& part : path.relative_path())
      if (!part.empty() && part != ".") out.push_back(part.string());
    return out;
  }
  std::shared_ptr<Node> find(const Path& path) const {
    auto node = root_;
    for (const auto& name : names_of(path)) {
      const auto below = node->names.find(name);
      if (below == node->names.end()) return nullptr;
      node = below->second;
    }
    return node;
  }
  Node& file(const Path& path, std::string_view what) const {
    const auto node = find(path);
    if (!node) throw io::io_error(what, path, ENOENT);
    if (node->is_folder) throw io::io_error(what, path, EISDIR);
    return *node;
  }
  Node& folder(const Path& path, std::string_view what) const {
    const auto node = find(path);
    if (!node) throw io::io_error(what, path, ENOENT);
    if (!node->is_folder) throw io::io_error(what, path, ENOTDIR);
    return *node;
  }
  Node& make_file(const Path& path, std::string_view what) {
    auto& parent = folder(io::parent_of(path), what);
    const auto name = path.filename().string();
    if (!parent.names.contains(name)) parent.create(name, std::make_shared<Node>(false));
    return file(path, what);
  }

  static void settle(const std::shared_ptr<Node>& node, Survives survives, const Random& random, uint64_t& drawn,
                     std::set<const Node*>& seen) {
    if (!seen.insert(node.get()).second) return;
    if (survives == Survives::nothing) node->seen = node->safe, node->names = node->safe_names;
    if (survives == Survives::random && node->seen != node->safe) tear(*node, random, drawn);
    if (survives == Survives::random && !node->changes.empty()) drop_changes(*node, random, drawn);
    node->changes.clear();
    node->safe = node->seen, node->safe_names = node->names, node->n_held = node->seen.size();
    for (const auto& [name, below] : node->names) settle(below, survives, random, drawn, seen);
  }
  static void tear(Node& node, const Random& random, uint64_t& drawn) {
    const auto cut = node.n_held + random.below(drawn++, node.seen.size() - node.n_held + 1);
    switch (random.below(drawn++, 4)) {
      case 0:
        node.seen = node.safe;
        break;
      case 1:
        node.seen.resize(cut);
        break;
      case 2:
        std::fill(node.seen.begin() + static_cast<ptrdiff_t>(cut), node.seen.end(), std::byte{0});
        break;
      default:
        break;
    }
  }
  /// A journal keeps changes in order; without one any of them may be lost. Each single one is whole.
  static void drop_changes(Node& node, const Random& random, uint64_t& drawn) {
    const bool is_journal = random.below(drawn++, 2);
    const auto n_first = random.below(drawn++, node.changes.size() + 1);
    node.names = node.safe_names;
    for (size_t i = 0; i < node.changes.size(); ++i) {
      const auto& [from, to, moved] = node.changes[i];
      const bool is_done = is_journal ? i < n_first : random.below(drawn++, 2) == 1;
      const bool is_possible = from.empty() || node.names.contains(from);
      if (!is_done || !is_possible) continue;
      if (!from.empty()) node.names.erase(from);
      if (!to.empty()) node.names[to] = moved;
    }
  }

  std::shared_ptr<Node> root_;
  int64_t calls_ = 0, armed_ = -1;
  Fault fault_ = Fault::crash;
  Done done_ = Done::nothing;
  bool sticky_ = false;
};

}  // namespace collegium::test
