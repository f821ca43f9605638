package admin_test

import (
	"net/http"
	"testing"

	"github.com/rowhook/rowhook/relay/admin"
	"github.com/rowhook/rowhook/relay/api"
)

// FuzzRequest sends bodies to the calls of the API: an answer, or a problem that
// blames the request.
func FuzzRequest(f *testing.F) {
	for _, body := range []string{`{}`, `{"ids":[1,2]}`, `{"limit":5,"source":"shop"}`, `{"limit":-1}`, `{"limit":1e400}`, `[]`, `{}{}`, `{"x":1}`, `{"ids":null}`, "\xff", `{"ids":[9223372036854775808]}`} {
		f.Add("deliveries/retry", body)
		f.Add("events/list", body)
	}
	s := (&admin.Server{Actions: &actions{
		retry:  func(*api.RetryRequest) (*api.RetryResponse, error) { return &api.RetryResponse{}, nil },
		events: func(*api.EventsRequest) (*api.Events, error) { return &api.Events{}, nil },
	}}).Local()
	f.Fuzz(func(t *testing.T, call, body string) {
		if call != "deliveries/retry" {
			call = "events/list"
		}
		if w := ask(s, "POST", "/v1/"+call, body, "Content-Type: application/json"); w.Code != http.StatusOK {
			if p := problemOf(t, w); w.Code < 400 || w.Code >= 500 {
				t.Fatalf("%q: %+v", body, p)
			}
		}
	})
}
