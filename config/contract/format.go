package contract

import "regexp"

// Format is a form that strings have. It is the name by which a generated
// type speaks of it.
type Format string

// The forms.
const (
	UUID Format = "uuid"
	Date Format = "date"
	// Timestamp has a time zone, LocalTimestamp has none.
	Timestamp      Format = "timestamp"
	LocalTimestamp Format = "local_timestamp"
	// Numeric is a number that is sent as a string.
	Numeric Format = "numeric"
	// The forms of the envelope.
	Instant  Format = "instant"
	EventID  Format = "event_id"
	Sequence Format = "sequence"
)

// form is what is known of a format.
type form struct {
	schema schema // its members in a JSON Schema, beside the type
	doc    string
	// pattern is what every such string looks like, for literals that are compared
	// with one.
	pattern *regexp.Regexp
	example string
}

// unusual are the dates and times of PostgreSQL that RFC 3339 does not have.
const unusual = `^-?infinity$| BC$|^[0-9]{5}`

var forms = map[Format]form{
	UUID: {
		schema: schema{"format": "uuid"}, doc: "A UUID, in lower case.",
		pattern: regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`), example: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
	},
	Date: {
		schema: schema{"anyOf": []any{schema{"format": "date"}, schema{"pattern": unusual}}}, doc: "A date, 2026-01-31; PostgreSQL's infinity and -infinity too.",
		pattern: regexp.MustCompile(`^\d{4,}-\d\d-\d\d( BC)?$|^-?infinity$`), example: "2026-01-31",
	},
	Timestamp: {
		schema: schema{"anyOf": []any{schema{"format": "date-time"}, schema{"pattern": unusual}}}, doc: "A time as in RFC 3339; PostgreSQL's infinity and -infinity too.",
		pattern: regexp.MustCompile(`^\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d(:\d\d)?( BC)?$|^-?infinity$`), example: "2026-01-31T09:30:00+00:00",
	},
	LocalTimestamp: {
		schema: schema{"pattern": `^[0-9]{4,}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?( BC)?$|^-?infinity$`}, doc: "A time without a time zone, 2026-01-31T09:30:00; PostgreSQL's infinity and -infinity too.",
		pattern: regexp.MustCompile(`^\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?( BC)?$|^-?infinity$`), example: "2026-01-31T09:30:00",
	},
	Numeric: {
		schema: schema{"pattern": `^-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?$|^NaN$|^-?Infinity$`}, doc: "A number, sent as a string.",
		pattern: regexp.MustCompile(`^-?\d+(\.\d+)?([eE][+-]?\d+)?$|^NaN$|^-?Infinity$`), example: "12.50",
	},
	Instant:  {schema: schema{"format": "date-time"}, doc: "A time as in RFC 3339, in UTC."},
	EventID:  {schema: schema{"pattern": "^evt_[0-9a-v]{32}$"}, doc: "The id of an event. It never changes: receive each id once."},
	Sequence: {schema: schema{"pattern": "^[0-9a-f]{4}-[0-9a-f]{16}-[0-9a-f]{8}$"}, doc: "The place of an event: it orders those of one source as strings."},
}

// Example returns a string of the format.
func Example(f Format) string { return forms[f].example }
