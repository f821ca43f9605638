// Package api is what a running Rowhook daemon and the programs that talk to it
// have in common: the requests and responses of its admin API as plain structs,
// and a client.
//
// Every call is a POST of one JSON object to a path under /v1/ and answers with
// one JSON object; only Status is a GET. A request field that the daemon does
// not know is refused, so that a filter is never ignored. Errors are RFC 9457 problem details
// (application/problem+json) with the extension member "code", which is one of
// the Code constants.
//
//	GET  /v1/status             Status
//	POST /v1/events/list        EventsRequest      → Events
//	POST /v1/events/show        EventRequest       → EventDetail
//	POST /v1/events/failures    FailuresRequest    → Failures
//	POST /v1/events/retry-failures  RetryFailuresRequest → RetryFailuresResponse
//	POST /v1/deliveries/list    DeliveriesRequest  → Deliveries
//	POST /v1/deliveries/show    DeliveryRequest    → DeliveryDetails
//	POST /v1/deliveries/retry   RetryRequest       → RetryResponse
//	POST /v1/endpoints/list     EndpointsRequest   → Endpoints
//	POST /v1/endpoints/enable   EndpointRequest    → Endpoint
//	POST /v1/endpoints/disable  EndpointRequest    → Endpoint
//	POST /v1/checkpoints/list   CheckpointsRequest → Checkpoints
//	POST /v1/checkpoints/reset  ResetRequest       → ResetResponse
//	POST /v1/sources/drop       DropRequest        → DropResponse
//	POST /v1/backup             BackupRequest      → BackupResponse
//
// All of them are served on the Unix socket in the data folder ([SocketPath]),
// which only the daemon's user can open. The TCP listener serves the status
// alone.
//
// Times are RFC 3339 in UTC, absent when there is none. LSNs are written as
// PostgreSQL's pg_lsn prints them and are empty when unknown. Sizes are in
// bytes, and counters begin with the daemon's start unless their comment says
// otherwise.
package api
