package config

import (
	"strings"
	"testing"
)

// TestLanguage_IsWhole holds each definition to what the reference needs: a
// description, and a default that the argument itself accepts.
func TestLanguage_IsWhole(t *testing.T) {
	arguments := 0
	var walk func(path string, b *Block)
	walk = func(path string, b *Block) {
		path += b.Name
		if !strings.HasSuffix(b.Doc, ".") {
			t.Errorf("%s: the description is no sentence: %q", path, b.Doc)
		}
		for _, l := range b.Labels {
			if !strings.HasSuffix(l.Doc, ".") {
				t.Errorf("%s %s: the description is no sentence: %q", path, l.Name, l.Doc)
			}
		}
		seen := map[string]bool{}
		for i := range b.Arguments {
			a := &b.Arguments[i]
			arguments++
			if !strings.HasSuffix(a.Doc, ".") {
				t.Errorf("%s.%s: the description is no sentence: %q", path, a.Name, a.Doc)
			}
			if seen[a.Name] || b.block(a.Name) != nil {
				t.Errorf("%s.%s is defined twice", path, a.Name)
			}
			seen[a.Name] = true
			if a.Required && a.Default != "" {
				t.Errorf("%s.%s is required and has a default", path, a.Name)
			}
			if a.Default != "" {
				defaultOf(a) // panics when the argument would not accept it
			}
		}
		for _, c := range b.Blocks {
			walk(path+".", c)
		}
	}
	for _, b := range Language() {
		walk("", b)
	}
	if arguments < 40 {
		t.Errorf("only %d arguments are defined", arguments)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"max_attempts", "initial", "max", "multiplier", "jitter"}
	for given, want := range map[string]string{"max_attempt": "max_attempts", "initia": "initial", "MAX": "max", "jiter": "jitter", "zzzzz": "", "": ""} {
		if got := nearest(given, known); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}
