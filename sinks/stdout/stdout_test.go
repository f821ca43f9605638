package stdout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func delivery(typ string) *relay.Delivery {
	return &relay.Delivery{Attempt: 1, Event: &relay.Event{Type: typ, Version: 1, Source: "shop", Data: []byte(`{"n":1.50}`)}}
}

func TestSink_PrintsOneLineAnEvent(t *testing.T) {
	var out bytes.Buffer
	s := New(&out)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := s.Send(context.Background(), delivery("a.b")); got.Result != relay.Delivered {
				t.Errorf("got %+v", got)
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 50 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, line := range lines {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || m["type"] != "a.b" || !strings.HasSuffix(line, `"data":{"n":1.50}}`) {
			t.Fatalf("%v: %s", err, line)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("pipe closed") }

func TestSink_Fails(t *testing.T) {
	if got := New(broken{}).Send(context.Background(), delivery("a")); got.Result != relay.Failed || got.Err != "print: pipe closed" {
		t.Errorf("got %+v", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out bytes.Buffer
	if got := New(&out).Send(ctx, delivery("a")); got.Result != relay.Cut || out.Len() > 0 {
		t.Errorf("got %+v and %q", got, out.String())
	}
}
