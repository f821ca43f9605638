// Package sqlitestore is the embedded durable store: relay.Log, relay.Ledger
// and relay.Queries on one SQLite database in the data folder.
//
// # The folder
//
// The data folder has mode 0700 and belongs to one process at a time: the holder
// of the lock on rowhook.lock, in which it has written who it is. rowhook.db
// is the database, with -wal and -shm beside it. Any SQLite shell can read it.
//
// # Writing
//
// One goroutine owns the one connection that writes. Calls that change the
// store hand it an operation and wait. It takes every operation that waits,
// runs them in one transaction, each under a savepoint so that one that fails
// leaves the others alone, commits once (WAL, synchronous=FULL: one fsync) and
// answers all. An idle store answers after one commit; a busy one shares a
// commit among many.
//
// A commit that fails, or whose result is unknown, counts as not stored. The
// connection is closed and opened anew before the next operation, so nothing
// that SQLite or this package remembered survives it, and a store whose disk
// was full works again as soon as there is space.
//
// # Reading
//
// Reads use up to four connections of their own, which cannot write, and see
// what was committed before they began. No read transaction outlives its call:
// an open one would keep the -wal file from being reset, and it would grow.
//
// # Form
//
// Events lie in the packed blocks of the domain, one row each. A delivery that
// succeeds at once never has a row: it is a few bytes in a packed record of
// some hundred successes. A delivery that does not succeed at once has a row
// until it does. All times are microseconds since the Unix epoch; LSNs, places
// and hashes are unsigned in the domain and stored as the signed number of the
// same bits.
package sqlitestore
