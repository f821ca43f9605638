package config

import (
	"strings"
	"testing"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

const schemaRules = sourceText + `
event "signup" {
  message = "signup"
  data    = payload
  schema {
    id    = integer
    email = string
    plan  = enum("free", "pro")
    ref   = optional(nullable(uuid))
    lines = list({ sku = string, qty = optional(number) })
    extra = optional(map(bool))
    some  = optional(any)
  }
}
event "numbers" {
  message = "numbers"
  numbers = "string"
  data    = { n = payload.n }
  schema {
    n = integer
  }
}
`

// What only the values tell is looked at when the event is made.
func TestSchema_IsHeldAtRunTime(t *testing.T) {
	cfg := mustLoadText(t, schemaRules)
	good := `"id": 7, "email": "a", "plan": "pro", "lines": []`
	for _, c := range []struct {
		rule          int
		payload, want string // part of the error; "" is none
	}{
		{0, `{` + good + `}`, ""},
		{0, `{` + good + `, "ref": null, "lines": [{"sku": "x", "qty": 1.5}, {"sku": "y"}], "extra": {"a": true}, "more": [1], "some": null}`, ""},
		{0, `{` + good + `, "ref": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "id": 1e3}`, ""},
		{0, `{}`, "data.id is left out, and the schema does not say that it is optional"},
		{0, `[]`, "data is a list, and the schema says an object"},
		{0, `{` + good + `, "id": "7"}`, "data.id is a string, and the schema says a whole number"},
		{0, `{` + good + `, "id": 7.5}`, "data.id is not a whole number"},
		{0, `{` + good + `, "id": 1e999999999}`, "data.id is not a whole number"},
		{0, `{` + good + `, "email": null}`, "data.email is null, and the schema says a string"},
		{0, `{` + good + `, "plan": "secret-plan"}`, `data.plan is not one of "free", "pro", as the schema says`},
		{0, `{` + good + `, "ref": "A0EEBC99"}`, "data.ref is not a string (uuid) or null"},
		{0, `{` + good + `, "lines": [{"sku": "x"}, {}]}`, "data.lines[1].sku is left out"},
		{0, `{` + good + `, "lines": {}}`, "data.lines is an object, and the schema says a list"},
		{0, `{` + good + `, "extra": {"a": 1}}`, "data.extra.a is a number, and the schema says a bool"},
		{1, `{"n": 5}`, ""},
		{1, `{"n": 5.5}`, "data.n is not a whole number"},
		{1, `{"n": "x"}`, "data.n is a string"},
	} {
		p, err := cfg.Rules[c.rule].Bind(nil)
		if err != nil {
			t.Fatal(err)
		}
		var d relay.Draft
		ok, err := p.Eval(&relay.Change{Op: relay.Message, Payload: []byte(c.payload)}, &d)
		switch {
		case c.want == "" && (err != nil || !ok):
			t.Errorf("%s: %v", c.payload, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.payload, err, c.want)
		case err != nil && strings.Contains(err.Error(), "secret-plan"):
			t.Errorf("the error shows a value: %v", err)
		}
	}
}

func TestSchema_IsTheContract(t *testing.T) {
	events := Events(mustLoadText(t, schemaRules), nil)
	if len(events) != 2 || events[1].Type != "signup" {
		t.Fatalf("got %v", events)
	}
	data := events[1].Data
	if data.Field("plan").Type.String() != `one of "free", "pro"` || !data.Field("ref").Optional || data.Rest != nil {
		t.Errorf("got %v", data)
	}
	if n := events[0].Data.Field("n").Type.String(); n != "a string (numeric)" {
		t.Errorf("numbers = string: %s", n)
	}
}

// What a schema says of an attribute goes to receivers, in every form, and does
// not make the rule another one.
func TestSchema_Descriptions(t *testing.T) {
	plain := sourceText + `
event "signup" {
  message = "signup"
  data    = payload
  schema {
    id    = integer
    plan  = optional(enum("free", "pro"))
    lines = list({ sku = string })
  }
}
`
	said := strings.NewReplacer(
		"= integer", `= description(integer, "The \"number\" of the account.")`,
		`= optional(enum("free", "pro"))`, `= description(optional(enum("free", "pro")), "What they pay for.")`,
		"sku = string", `sku = optional(description(string, "The stock-keeping unit."))`,
	).Replace(plain)
	cfg := mustLoadText(t, said)
	if a, b := mustLoadText(t, strings.Replace(plain, "sku = string", "sku = optional(string)", 1)).Rules[0].Hash, cfg.Rules[0].Hash; a != b {
		t.Error("a description changed the hash")
	}
	events := Events(cfg, nil)
	source, err := contract.Go(events, "events")
	if err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string][]byte{
		"JSON Schema": contract.JSONSchema(events), "AsyncAPI": contract.AsyncAPI(events, "x"), "TypeScript": contract.TypeScript(events), "Go": source,
	} {
		id := `The "number" of the account.`
		if strings.HasPrefix(string(out), "{") {
			id = `"description": "The \"number\" of the account."`
		}
		for _, want := range []string{id, "What they pay for.", "The stock-keeping unit."} {
			if strings.Count(string(out), want) != 1 {
				t.Errorf("%s does not say %q once:\n%s", name, want, out)
			}
		}
	}
	old, err := contract.ReadJSONSchema(contract.JSONSchema(events))
	if err != nil {
		t.Fatal(err)
	}
	if breaks := contract.Compare(old, events); len(breaks) > 0 {
		t.Errorf("the same events break: %v", breaks)
	}
}

// A map of nothing has no attributes; it has been an empty anyOf, which is no
// JSON Schema, and a hole in TypeScript.
func TestTypes_OfAnEmptyMap(t *testing.T) {
	events := Events(mustLoadText(t, sourceText+`
event "empty" {
  message = "m"
  data    = { of = { for k, v in {} : k => v } }
}
`), nil)
	if s := string(contract.JSONSchema(events)); strings.Contains(s, `"anyOf": []`) {
		t.Error(s)
	}
	if s := string(contract.TypeScript(events)); strings.Contains(s, ": ;") {
		t.Error(s)
	}
}

// A schema decides what becomes an event, so that it counts in the hash.
func TestSchema_CountsInTheHash(t *testing.T) {
	a := mustLoadText(t, schemaRules).Rules[0].Hash
	if b := mustLoadText(t, strings.Replace(schemaRules, "id    = integer", "id    = number", 1)).Rules[0].Hash; a == b {
		t.Error("another schema, and the same hash")
	}
	if b := mustLoadText(t, strings.Replace(schemaRules, "id    = integer", "id = integer # as before", 1)).Rules[0].Hash; a != b {
		t.Error("the same schema, and another hash")
	}
}
