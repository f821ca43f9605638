package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/rowhook/rowhook/relay"
)

func TestRulesText_MakesTheSameRules(t *testing.T) {
	cfg, _, diags := loadText("a.hcl", []byte(`
source "postgres" "shop" { url = env("URL") }
source "postgres" "other" { url = "host=b" }
locals {
  paid   = "paid"
  is     = new.status == local.paid # "paid"
  text   = <<-EOT
    Order ${new.id}
  EOT
  sum = (new.a
    + new.b)
  secret = "whsec_bm90IGZvciB0aGUgc3RvcmUsIG5vdCBhdCBhbGw="
}
event "order.paid" {
  source = source.shop
  table  = "public.orders"
  on     = ["update"]
  when   = local.is
  data   = { text = local.text, more = local.sum }
}
event "order" {
  source = "shop"
  table  = "public.orders"
  on     = ["insert"]
  data   = row
}
event "item" {
  source = source.other
  table  = "public.items"
  on     = ["insert"]
  data   = row
}
sink "webhook" "a" {
  url     = "https://example.com"
  events  = ["**"]
  secrets = [local.secret]
}
`), Options{Getenv: func(string) (string, bool) { return "host=a", true }})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	text := cfg.RulesText("shop")
	if strings.Contains(text, "whsec_") {
		t.Errorf("a secret is in the text:\n%s", text)
	}
	rules, err := LoadRules("shop", text, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := relay.NewRuleSet("shop", cfg.Rules)
	if got := relay.NewRuleSet("shop", rules); got.Hash() != want.Hash() || len(rules) != 2 {
		t.Errorf("the rules made of the text are others:\n%s", text)
	}
	if !slices.Equal(want.Needs().Reads()[0].Columns, []string{"a", "b", "id", "status"}) {
		t.Errorf("needs %+v", want.Needs())
	}
}

func TestLoadRules_SaysWhatItCannotRead(t *testing.T) {
	if _, err := LoadRules("shop", `event "a" { table = "public.t" on = ["insert"] dota = row }`, Options{}); err == nil || !strings.Contains(err.Error(), "rules in force") {
		t.Errorf("got %v", err)
	}
}
