#pragma once
#include <sqlite3.h>
// SQLITE_TRANSIENT is a cast of -1, which Swift does not import.
static inline sqlite3_destructor_type cf_sqlite_transient(void) { return SQLITE_TRANSIENT; }

// The errno of the last system call on the database, or on its log, that has failed. SQLite itself knows no quota that is
// used up: it tells of a disk that cannot be written.
static inline int cf_sqlite_errno(sqlite3 *connection) {
  int number = 0;
  sqlite3_file *log = 0;
  if (sqlite3_file_control(connection, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log) == SQLITE_OK && log && log->pMethods)
    log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &number);
  if (!number) sqlite3_file_control(connection, "main", SQLITE_FCNTL_LAST_ERRNO, &number);
  return number;
}
