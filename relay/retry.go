package relay

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The defaults of RetryPolicy: 5 s, 25 s, 2 min, 10 min, 52 min, 4 h, 22 h and
// twice 24 h, so ten attempts over some 75 hours, as Standard Webhooks
// recommends.
const (
	defaultMaxAttempts = 10
	defaultInitial     = 5 * time.Second
	defaultMultiplier  = 5
	defaultMaxDelay    = 24 * time.Hour
	defaultJitter      = 0.2
)

// Delay returns how long to wait after the given number of failed attempts (1
// or more), and false when there are no more attempts. What the endpoint asked
// for with Retry-After is obeyed when it is longer than the schedule.
func (p RetryPolicy) Delay(attempts int, retryAfter time.Duration) (time.Duration, bool) {
	if attempts >= orDefault(p.MaxAttempts, defaultMaxAttempts) {
		return 0, false
	}
	b := &backoff.ExponentialBackOff{
		InitialInterval:     orDefault(p.Initial, defaultInitial),
		Multiplier:          orDefault(p.Multiplier, defaultMultiplier),
		MaxInterval:         orDefault(p.Max, defaultMaxDelay),
		RandomizationFactor: max(orDefault(p.Jitter, defaultJitter), 0),
		Clock:               backoff.SystemClock,
	}
	b.InitialInterval = min(b.InitialInterval, b.MaxInterval)
	b.Reset()
	d := b.NextBackOff()
	for range attempts - 1 {
		d = b.NextBackOff()
	}
	return max(d, retryAfter), true
}

func orDefault[T int | float64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}
