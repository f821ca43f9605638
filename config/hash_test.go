package config

import "testing"

// TestHash_ChangesWithWhatDecides: the hash is of what decides which events a
// rule makes, and of nothing else.
func TestHash_ChangesWithWhatDecides(t *testing.T) {
	hash := func(rule, locals string) string {
		t.Helper()
		return mustLoadText(t, sourceText+locals+rule).Rules[0].Hash
	}
	const rule = "event \"a\" {\n  table = \"public.t\"\n  on = [\"insert\", \"update\"]\n  when = local.x && new.b == \"y\"\n  data = {\n    a = new.a\n    b = new.b\n  }\n}\n"
	const locals = "locals {\n  x = new.a > 1\n}\n"
	base := hash(rule, locals)
	for name, same := range map[string][2]string{
		"layout, comments, description": {"# a\nevent \"a\" {\n  description = \"new\"\n table = \"public.t\"\n  data = { # c\n    a = new.a // c\n\n    /* c */ b = new.b\n  }\n  when = local.x   && new.b==\"y\"\n  on = [\"update\", \"insert\"]\n}\n", locals},
		"a local of another rule":       {rule + "event \"b\" {\n  channel = \"c\"\n  data = local.y\n}\n", "locals {\n  y = 5\n  x = new.a > 1\n}\n"},
	} {
		if got := hash(same[0], same[1]); got != base {
			t.Errorf("%s changes the hash", name)
		}
	}
	for name, other := range map[string][2]string{
		"expression":  {"event \"a\" {\n  table = \"public.t\"\n  on = [\"insert\", \"update\"]\n  when = local.x && new.b == \"z\"\n  data = {\n    a = new.a\n    b = new.b\n  }\n}\n", locals},
		"local":       {rule, "locals {\n  x = new.a > 2\n}\n"},
		"inner local": {rule, "locals {\n  x = new.a > local.y\n  y = 1\n}\n"},
		"numbers":     {rule[:len(rule)-2] + "  numbers = \"string\"\n}\n", locals},
		"version":     {rule[:len(rule)-2] + "  version = 2\n}\n", locals},
		"tenant":      {rule[:len(rule)-2] + "  tenant = new.a\n}\n", locals},
		"key":         {rule[:len(rule)-2] + "  key = new.a\n}\n", locals},
		"barrier":     {rule[:len(rule)-2] + "  barrier = true\n}\n", locals},
	} {
		if got := hash(other[0], other[1]); got == base {
			t.Errorf("another %s has the same hash", name)
		}
	}
	if a, b := hash(rule, "locals {\n  x = new.a > local.y\n  y = 1\n}\n"), hash(rule, "locals {\n  x = new.a > local.y\n  y = 2\n}\n"); a == b {
		t.Error("the hash does not follow locals of locals")
	}
}
