// Package cdc is PostgreSQL as a source. It reads logical replication
// (pgoutput, protocol 1, text format) and LISTEN/NOTIFY, knows what a server
// must be and have for that, and is one of the two places that hold SQL.
//
// # Words
//
// A slot is the server's memory of how far a reader has come; a publication is
// the set of tables the reader sees. Confirm is to tell the server how far it
// may forget. The confirmed position (confirmed_flush_lsn) never passes the
// checkpoint, which belongs to the store.
//
// # The way of a change
//
// [Stream.Run] owns one replication connection and one goroutine. Each message
// is decoded in place (decode.go), completed with what its table's replica
// identity implies (relation.go) and given to a [Handler]; nothing is copied
// and nothing is kept. What the handler says is durable is confirmed
// (status.go), clamped to what this connection has seen.
//
// # Setting up
//
// [Inspect] says what a server is and has, [ReadCatalog] what its tables are,
// [EnsurePublication] and [CreateSlot] make what is missing, in that order.
// What only a DBA can do comes back as a [*SetupError] with the SQL to run.
//
// # Promises
//
// A position is confirmed only after the handler called it durable, and only
// when this connection has seen it. A message that cannot be understood ends
// the stream with a reason; none is skipped. No error and no log line holds a
// password.
package cdc
