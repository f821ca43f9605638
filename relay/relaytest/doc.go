// Package relaytest is what tests of the domain share: the conformance suite
// that every store passes ([TestStore]), a store in memory ([Memory]), a sink
// whose answers a test scripts ([Sink]), a record of durable steps for golden
// traces ([Trace]), and a way to wait for things without sleeping
// ([Collector]).
//
// Nothing here starts a goroutine or looks at the wall clock by itself, so that
// all of it works inside a testing/synctest bubble.
package relaytest
