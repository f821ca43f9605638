package relay

import (
	"encoding/json"
	"log/slog"
)

// Secret is a string that must not be printed: it formats, logs and marshals
// as a placeholder. Reveal is the one way to its value.
type Secret struct{ value string }

const redacted = "[secret]"

// NewSecret returns the secret with the given value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value. The caller must not log or store it.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns a placeholder.
func (s Secret) String() string { return redacted }

// GoString returns a placeholder.
func (s Secret) GoString() string { return redacted }

// LogValue returns a placeholder.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON returns a placeholder.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
