// Package admin is the daemon's face to people and to monitoring: the HTTP
// server of the API whose wire types are in package api, of health and
// readiness, and of the Prometheus metrics.
//
// A [Server] has two handlers. [Server.Local] serves every call and belongs on
// the Unix socket in the data folder, where the file mode says who may call.
// [Server.Public] belongs on TCP: /healthz, /readyz, /metrics and GET
// /v1/status, nothing that changes anything or shows an event.
//
// What the calls do is the daemon's business: it supplies [Actions]. Those that
// only read the store are here, as [Views], for the daemon and for commands
// that act on the store of a stopped one.
//
// # Health
//
// /healthz is 200 while the process works; restarting it is the cure for
// anything else. /readyz is 200 only while every source makes progress, and
// says in JSON what does not. A dead endpoint does not make the daemon unready,
// since sources and other endpoints go on; it is told as information.
//
// # Metrics
//
// Metrics are computed from [api.Status] when they are scraped, so that the
// packages that do the work know nothing of Prometheus. Labels are the names of
// sources, rules and endpoints, never something out of a change.
package admin
