// Package config turns HCL files into the domain: settings, sources, rules and
// sinks. HCL is known here and nowhere else.
//
// # The way of a file
//
// [Load] reads files and folders into [Files], and merges their blocks. Each
// block type has a definition, a table of its arguments with type, default and
// description, in a file of its own: rowhook.go, source.go, event.go,
// locals.go and sink.go. The decoder is driven by the definitions, and so is
// the language reference ([Language]), which therefore cannot drift. The
// expressions of an event are compiled to closures (the files that begin with
// expr) and become a [relay.Rule]. [Check] holds the rules against the
// catalogue of a live database.
//
// # Mistakes
//
// A mistake is a diagnostic: a summary that is constant, the place, and a
// detail that says what to write instead. One mistake does not hide another.
// [Files.Write] prints them for people and [Files.DiagsJSON] for programs.
//
// # Secrets
//
// A value that came from env() or file() is secret, and so is every value of
// an argument that holds credentials. Settings are evaluated by a small
// evaluator of our own, because that of HCL prints the values of variables in
// its diagnostics. A secret that was written into a file as it is would be
// printed with the line it stands on: Files blots it out.
package config
