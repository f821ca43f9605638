package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/rowhook/rowhook/relay"
)

// RulesText returns the events of a source as they are written, with the locals
// they need, so that [LoadRules] makes the same rules of them later, when the
// files have changed. It holds no secret: events have none.
func (c *Config) RulesText(source string) string {
	var b strings.Builder
	var needed []*local
	for _, r := range c.rules {
		if r.Source != source {
			continue
		}
		b.Write(c.files.text(r.block))
		b.WriteString("\n\n")
		for _, l := range r.locals {
			if !slices.Contains(needed, l) {
				needed = append(needed, l)
			}
		}
	}
	for _, l := range needed {
		fmt.Fprintf(&b, "locals {\n%s\n}\n\n", c.files.text(l.whole))
	}
	return b.String()
}

func (f *Files) text(at hcl.Range) []byte { return at.SliceBytes(f.files[at.Filename].Bytes) }

// LoadRules makes the rules of what RulesText returned. An error means that this
// version reads the language in another way. opts are the surroundings, which
// hold the keys of hmacsha256.
func LoadRules(source, text string, opts Options) ([]*relay.Rule, error) {
	head := fmt.Sprintf("source \"postgres\" %q { url = \"host=unused\" }\n\n", source)
	cfg, _, diags := loadText("rules in force", []byte(head+text), opts)
	if cfg == nil {
		return nil, fmt.Errorf("read the rules in force: %w", errors.Join(diags.Errs()...))
	}
	return cfg.Rules, nil
}
