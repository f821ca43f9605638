package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

// BenchmarkCheck loads and checks 200 rules against a catalogue.
func BenchmarkCheck(b *testing.B) {
	var rules strings.Builder
	rules.WriteString(sourceText)
	for i := range 200 {
		fmt.Fprintf(&rules, `event "shop.e%d" {
  table = "public.shop"
  on    = ["insert", "update"]
  when  = new.status == "paid" && new.small > %d && new.mtotal != null && new.mtotal > 5
  data = {
    id     = new.id
    merged = merge({ a = 1, b = new.uid }, { c = new.at })
    size   = new.small > 100 ? "big" : "small"
  }
}
`, i, i)
	}
	known := map[string]Known{"main": {Catalog: &relay.Catalog{Tables: []*relay.Table{shopTable}}}}
	load := func() *Config {
		cfg, _, diags := loadText("rules.hcl", []byte(rules.String()), testOptions())
		if diags.HasErrors() {
			b.Fatal(diags)
		}
		return cfg
	}
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			load()
		}
	})
	cfg := load()
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if diags := Check(cfg, known); diags.HasErrors() {
				b.Fatal(diags)
			}
		}
	})
}
