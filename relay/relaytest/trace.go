package relaytest

import (
	"fmt"
	"strings"
)

// Trace records steps in the order in which they became visible to the
// outside: what the store made durable, what was confirmed, what was sent. Give
// one trace to a [Memory] and a [Sink] to see them interleaved. The zero value
// is ready.
type Trace struct {
	Collector[string]
}

// Step adds a line. A nil trace forgets it.
func (t *Trace) Step(format string, args ...any) {
	if t != nil {
		t.Add(fmt.Sprintf(format, args...))
	}
}

// String returns the lines, each ended by a newline.
func (t *Trace) String() string {
	var b strings.Builder
	for _, l := range t.All() {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.String()
}
