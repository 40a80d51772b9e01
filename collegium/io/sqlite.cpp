#include "collegium/io/sqlite.h"

#include <sqlite3.h>

#include <chrono>
#include <cmath>
#include <thread>

namespace collegium::io {

void Database::Close::operator()(sqlite3* handle) const {
  sqlite3_close_v2(handle);
}
void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

Database::Database(Path path, int busy_ms) : path_(std::move(path)) {
  sqlite3* opened = nullptr;
  const int code = sqlite3_open_v2(path_.c_str(), &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  handle_.reset(opened);
  if (code != SQLITE_OK) fail_with(code);
  sqlite3_extended_result_codes(opened, 1);
  sqlite3_busy_timeout(opened, busy_ms);
  enter_wal_mode(busy_ms);
}

// Two processes that turn the same new file to WAL can block each other, and then SQLite reports "busy" at once,
// without its own waiting.
void Database::enter_wal_mode(int busy_ms) {
  constexpr int pause_ms = 5;
  for (int waited_ms = 0;; waited_ms += pause_ms) {
    const int code = sqlite3_exec(handle(), "PRAGMA journal_mode = WAL", nullptr, nullptr, nullptr);
    if (code == SQLITE_OK) return;
    const bool is_busy = (code & 0xff) == SQLITE_BUSY || (code & 0xff) == SQLITE_LOCKED;
    if (!is_busy || waited_ms >= busy_ms) fail_with(code);
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
  }
}

void Database::execute(const std::string& sql) {
  const int code = sqlite3_exec(handle(), sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail_with(code);
}

int64_t Database::integer(std::string_view sql) {
  Statement statement(*this, sql);
  return statement.step() ? statement.integer(0) : 0;
}

void Database::fail_with(int code) const {
  const auto message = text(path_.string(), ": ", handle() ? sqlite3_errmsg(handle()) : sqlite3_errstr(code));
  switch (code & 0xff) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      throw Error(ErrorKind::data, message,
                  "the file is damaged or of another kind: move it away, and a new one is made");
    case SQLITE_FULL:
      throw Error(ErrorKind::io, message, "the disk is full: free some space there");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      throw Error(ErrorKind::io, message, "another process holds the file: wait for it, or end it");
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
      throw Error(ErrorKind::io, message, "check that the folder is there and who may write in it");
    default:
      throw Error(ErrorKind::io, message);
  }
}

Statement::Statement(Database& database, std::string_view sql) : database_(database) {
  sqlite3_stmt* prepared = nullptr;
  const int code = sqlite3_prepare_v2(database.handle(), sql.data(), static_cast<int>(sql.size()), &prepared, nullptr);
  statement_.reset(prepared);
  check(code);
}

void Statement::check(int code) const {
  if (code != SQLITE_OK) database_.fail_with(code);
}

Statement& Statement::bind(int index, int64_t value) {
  check(sqlite3_bind_int64(statement_.get(), index, value));
  return *this;
}

Statement& Statement::bind(int index, std::optional<double> value) {
  const bool is_number = value && !std::isnan(*value);
  check(is_number ? sqlite3_bind_double(statement_.get(), index, *value) : sqlite3_bind_null(statement_.get(), index));
  return *this;
}

Statement& Statement::bind(int index, std::string_view value) {
  // A null pointer would bind NULL, which is what an empty string_view may hold.
  const char* data = value.empty() ? "" : value.data();
  check(sqlite3_bind_text64(statement_.get(), index, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

bool Statement::step() {
  const int code = sqlite3_step(statement_.get());
  if (code != SQLITE_ROW && code != SQLITE_DONE) {
    // The message is the connection's and reset would keep it; the statement must not stay half run.
    sqlite3_reset(statement_.get());
    database_.fail_with(code);
  }
  return code == SQLITE_ROW;
}

void Statement::run() {
  while (step()) {
  }
  check(sqlite3_reset(statement_.get()));
}

int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

std::optional<double> Statement::number(int column) const {
  if (sqlite3_column_type(statement_.get(), column) == SQLITE_NULL) return {};
  return sqlite3_column_double(statement_.get(), column);
}

std::string Statement::string(int column) const {
  const auto* bytes = sqlite3_column_text(statement_.get(), column);
  if (!bytes) return {};
  return {reinterpret_cast<const char*>(bytes), static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

Transaction::~Transaction() {
  if (!is_open_) return;
  sqlite3_exec(database_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);  // a destructor has nobody to tell
}

void Transaction::commit() {
  database_.execute("COMMIT");
  is_open_ = false;
}

}  // namespace collegium::io
