package admin

import (
	"net/http"

	"github.com/rowhook/rowhook/relay/api"
)

// routeHealth adds health, readiness and metrics to mux.
func (s *Server) routeHealth(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.metricsHandler())
}

// Health is the answer of /healthz and /readyz.
type Health struct {
	// OK is false with status 503.
	OK bool `json:"ok"`
	// Reasons say what is not well.
	Reasons []string `json:"reasons,omitempty"`
	// Sources and Endpoints are of /readyz: the state of each. Endpoints are
	// information; they do not decide OK.
	Sources   []SourceHealth   `json:"sources,omitempty"`
	Endpoints []EndpointHealth `json:"endpoints,omitempty"`
}

// SourceHealth is the state of one source.
type SourceHealth struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// EndpointHealth is the state of one endpoint.
type EndpointHealth struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Breaker string `json:"breaker,omitempty"`
	Behind  int64  `json:"behind"`
	Dead    int64  `json:"dead"`
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	h := Health{OK: true}
	if s.Alive != nil {
		if err := s.Alive(); err != nil {
			h = Health{Reasons: []string{err.Error()}}
		}
	}
	s.writeHealth(w, r, h)
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	st, err := s.snapshot(r.Context())
	if err != nil {
		s.writeHealth(w, r, Health{Reasons: []string{"no status: " + err.Error()}})
		return
	}
	s.writeHealth(w, r, readiness(st))
}

func readiness(st *api.Status) Health {
	h := Health{OK: st.Ready()}
	for i := range st.Sources {
		src := &st.Sources[i]
		h.Sources = append(h.Sources, SourceHealth{src.Name, src.State, src.Reason})
		if src.State == api.SourceStreaming {
			continue
		}
		reason := "source " + src.Name + " is " + src.State
		if src.Reason != "" {
			reason += ": " + src.Reason
		}
		h.Reasons = append(h.Reasons, reason)
	}
	for i := range st.Endpoints {
		e := &st.Endpoints[i]
		h.Endpoints = append(h.Endpoints, EndpointHealth{
			Name: e.Name, Status: e.Status, Reason: e.Reason, Breaker: e.Breaker.State, Behind: e.Behind, Dead: e.Dead,
		})
	}
	return h
}

func (s *Server) writeHealth(w http.ResponseWriter, r *http.Request, h Health) {
	code := http.StatusOK
	if !h.OK {
		code = http.StatusServiceUnavailable
	}
	s.writeJSON(w, r, code, h)
}
