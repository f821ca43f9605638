// Package contract describes events to those who receive them: the type of
// everything in the body of a webhook, and what of it may change without
// breaking a receiver.
//
// A [Type] is a set of JSON values. The rule language infers one for the data
// of every event (package config), and [Event.Envelope] puts the envelope
// around it. From the types come a JSON Schema, TypeScript, Go and AsyncAPI;
// the JSON Schema is also the form in which a contract is kept, to be compared
// with a later one ([Compare]).
//
// Receivers must ignore attributes they do not know, so a new attribute breaks
// nobody. Whatever else makes a value possible that was not possible before
// does.
package contract
