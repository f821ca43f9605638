package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// KeptRequest asks for changes that a source keeps, oldest first, in the form in
// which they are stored.
type KeptRequest struct {
	Source string `json:"source"`
	// Notifications asks for those instead of what came through the WAL.
	Notifications bool `json:"notifications,omitempty"`
	// After is the Next of the answer before.
	After int64     `json:"after,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// KeptChanges are changes that a source keeps, or the next of them.
type KeptChanges struct {
	Runs []KeptRun `json:"runs"`
	// Next is After of the next request; Runs is empty at the end.
	Next int64 `json:"next"`
	// Tables are all that kept changes name.
	Tables []KeptTable `json:"tables"`
	// SystemID is the cluster's, a fact of every event id.
	SystemID uint64 `json:"system_id"`
	// Rules are those in force, absent before the source was read for the first
	// time.
	Rules *KeptRules `json:"rules,omitempty"`
}

// KeptRun is a run of changes.
type KeptRun struct {
	Seq  int64  `json:"seq"`
	Data []byte `json:"data"`
}

// KeptTable is a table as it was when a change of it came.
type KeptTable struct {
	ID         string          `json:"id"`
	Definition json.RawMessage `json:"definition"`
}

// KeptRules are the rules that judge a source.
type KeptRules struct {
	Fingerprint string    `json:"fingerprint"`
	Text        string    `json:"text"`
	From        string    `json:"from"` // the LSN from which on
	Loaded      time.Time `json:"loaded"`
}

// Kept returns changes that a source keeps.
func (c *Client) Kept(ctx context.Context, req *KeptRequest) (*KeptChanges, error) {
	return call[KeptChanges](ctx, c, http.MethodPost, "/v1/changes/list", req)
}
