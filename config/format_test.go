package config

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/hcl/v2/hclwrite"
)

func TestFormat_MovesSpacesOnly(t *testing.T) {
	const src = "# what\nsource \"postgres\" \"main\" {\nurl=env( \"A\" ) # why\n    slot   = \"x\"\n}\n\nevent \"a\" {\n  data = {\n    a=1\n    long = <<E\n  kept   as=it is\nE\n  }\n}\n"
	const want = "# what\nsource \"postgres\" \"main\" {\n  url  = env(\"A\") # why\n  slot = \"x\"\n}\n\nevent \"a\" {\n  data = {\n    a    = 1\n    long = <<E\n  kept   as=it is\nE\n  }\n}\n"
	got, _, diags := Format("a.hcl", []byte(src))
	if diags.HasErrors() || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", diags, got, want)
	}
}

func TestFormat_RefusesWhatItCannotParse(t *testing.T) {
	for _, src := range []string{"event \"a\" {", "a = = 1\n", "event \"a\" { data = {\n"} {
		if got, _, diags := Format("a.hcl", []byte(src)); got != nil || !diags.HasErrors() {
			t.Errorf("%q became %q, %v", src, got, diags)
		}
	}
}

// FuzzFormat holds the canonical form to what it promises: it says what the
// text said, and it is its own canonical form.
func FuzzFormat(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.hcl", "testdata/good/*.hcl", "testdata/good/*/*.hcl"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		out, _, diags := Format("a.hcl", src)
		if diags.HasErrors() {
			return
		}
		if !sameTokens(src, out) {
			t.Fatalf("%q became %q", src, out)
		}
		again, _, diags := Format("a.hcl", out)
		if diags.HasErrors() {
			t.Fatalf("%q became %q, which cannot be parsed: %v", src, out, diags)
		}
		if !bytes.Equal(again, out) {
			t.Fatalf("%q became %q and then %q (once: %q)", src, out, again, hclwrite.Format(src))
		}
	})
}
