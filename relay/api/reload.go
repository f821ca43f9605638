package api

import (
	"context"
	"net/http"
)

// ReloadRequest asks for the configuration files to be read again.
type ReloadRequest struct{}

// ReloadResponse says what a reload changed.
type ReloadResponse struct {
	Events Changed `json:"events"`
	Sinks  Changed `json:"sinks"`
	// Log says that the bounds of the log changed.
	Log bool `json:"log,omitempty"`
	// Held are the deliveries of sinks that were removed. They wait until the sink
	// is there again, or until somebody gives them up (rowhook endpoints remove).
	Held []HeldDeliveries `json:"held,omitempty"`
	// Sources are those whose rules changed.
	Sources []ReloadedSource `json:"sources,omitempty"`
	// Statements is the SQL that was run to extend publications.
	Statements []string `json:"statements,omitempty"`
	// Warnings are those of the configuration, as text.
	Warnings string `json:"warnings,omitempty"`
}

// Changed names what was added, changed and removed.
type Changed struct {
	Added   []string `json:"added"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
}

// Empty reports whether nothing changed.
func (c Changed) Empty() bool { return len(c.Added)+len(c.Changed)+len(c.Removed) == 0 }

// HeldDeliveries is how many deliveries are held for a sink.
type HeldDeliveries struct {
	Sink       string `json:"sink"`
	Deliveries int64  `json:"deliveries"`
	// More says that there are more than were counted.
	More bool `json:"more,omitempty"`
}

// ReloadedSource says where the new rules of a source take effect.
type ReloadedSource struct {
	Source string      `json:"source"`
	Rules  SourceRules `json:"rules"`
	// Note says why they are not in force yet, or is empty.
	Note string `json:"note,omitempty"`
}

// Reload has the daemon read its configuration again.
func (c *Client) Reload(ctx context.Context, req *ReloadRequest) (*ReloadResponse, error) {
	return call[ReloadResponse](ctx, c, http.MethodPost, "/v1/reload", req)
}
