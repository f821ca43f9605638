// Package relay is the domain of Rowhook: the words of its design as types,
// and the two halves of its work as code that knows neither PostgreSQL, nor
// HTTP, nor HCL, nor SQL.
//
// # The way of the data
//
// A source (package cdc) decodes a [Change] and gives it to [Ingest]. Ingest
// passes it through the [Rule] set, packs the events the rules make into
// [Block] values, and appends them together with the [Checkpoint] to the log
// in one store transaction. Only when that transaction is durable may the
// source confirm the position to PostgreSQL, and only then does [Dispatcher]
// see the events. The dispatcher puts every event an endpoint wants into the
// lanes of its keys, sends the heads of the lanes through a [Sink], and
// records the outcomes. The two halves meet in the store and in a wake-up.
//
// # Words
//
// A source is a PostgreSQL database that is read. A change is one row change,
// notification or logical message. A rule makes events of changes. An event is
// an immutable fact with an id that never changes. A stream is one ordered
// series of events, and seq is the place in it. The checkpoint of a source is
// the LSN up to which everything is durably in the log. An endpoint is one
// receiver; a delivery is one event for one endpoint; an attempt is one try of
// a delivery; a lane is the deliveries of one key at one endpoint.
//
// # Imports
//
// This package imports nothing of this module. The interfaces it needs from
// the outside ([Log], [Ledger], [Sink]) stand here, beside the code that uses
// them.
package relay
