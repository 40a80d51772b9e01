// SQLite, wrapped thinly: a connection and a statement that close themselves, and Errors in place of codes.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "collegium/io/fs.h"

struct sqlite3;
struct sqlite3_stmt;

namespace collegium::io {

class Database;

/// A prepared statement. Parameters count from 1, columns from 0. Its Database must outlive it.
class Statement {
 public:
  Statement(Database& database, std::string_view sql);

  /// nullopt binds NULL; so does a double that is not a number, which SQLite cannot hold.
  Statement& bind(int index, int64_t value);
  Statement& bind(int index, std::optional<double> value);
  Statement& bind(int index, std::string_view value);

  /// Goes to the next row; false when there is none.
  bool step();
  /// Runs a statement that returns no rows, and makes it ready for the next values.
  void run();

  int64_t integer(int column) const;
  std::optional<double> number(int column) const;
  std::string string(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  void check(int code) const;

  Database& database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

/// A connection. Used by one thread at a time; other connections and processes wait for it up to `busy_ms`.
/// Every failure is an Error that names the file: of kind data when it is no database, else of kind io.
class Database {
 public:
  /// Opens the file, or creates it (not its folder), in WAL mode.
  explicit Database(Path path, int busy_ms = 10'000);

  /// Runs SQL that returns no rows that matter; may hold several statements.
  void execute(const std::string& sql);
  /// The first column of the first row; 0 when there is none.
  int64_t integer(std::string_view sql);
  [[noreturn]] void fail_with(int code) const;
  sqlite3* handle() const { return handle_.get(); }
  const Path& path() const { return path_; }

 private:
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  void enter_wal_mode(int busy_ms);

  Path path_;
  std::unique_ptr<sqlite3, Close> handle_;
};

/// A transaction that has the right to write from its start on; undone unless committed.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database) { database_.execute("BEGIN IMMEDIATE"); }
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& database_;
  bool is_open_ = true;
};

}  // namespace collegium::io
