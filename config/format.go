package config

import (
	"bytes"
	"os"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format returns the text of a file in the canonical form: indented by two
// spaces a level, the equals signs of neighbouring arguments in one column. It
// moves nothing and changes nothing but spaces. A file with a syntax error has
// no canonical form; it is reported, and the result is nil.
func Format(name string, src []byte) ([]byte, *Files, hcl.Diagnostics) {
	p, files := &problems{}, &Files{files: map[string]*hcl.File{}}
	files.parse(p, name, src)
	diags := p.sorted()
	if diags.HasErrors() || len(files.order) == 0 {
		return nil, files, diags
	}
	out := hclwrite.Format(src)
	// What the formatter of HCL moves on one line can matter to the next.
	for range 4 {
		again := hclwrite.Format(out)
		if bytes.Equal(again, out) {
			break
		}
		out = again
	}
	if !sameTokens(src, out) {
		return src, files, diags
	}
	return out, files, diags
}

// sameTokens reports whether two texts differ in nothing but white space: what
// the formatter does not understand, it must not touch.
func sameTokens(a, b []byte) bool {
	x, _ := hclsyntax.LexConfig(a, "", hcl.InitialPos)
	y, _ := hclsyntax.LexConfig(b, "", hcl.InitialPos)
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i].Type != y[i].Type || !bytes.Equal(bytes.TrimSpace(x[i].Bytes), bytes.TrimSpace(y[i].Bytes)) {
			return false
		}
	}
	return true
}

// FormatFiles lists the files that paths name: a file as it is, and of a
// folder all *.hcl, also the tests, but no folder inside.
func FormatFiles(paths []string) ([]string, *Files, hcl.Diagnostics) {
	p, names := &problems{}, []string(nil)
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			p.unreadable(path, err)
		case info.IsDir():
			inside, _ := inFolder(p, path, func(string) bool { return true })
			names = append(names, inside...)
		default:
			names = append(names, path)
		}
	}
	return names, &Files{files: map[string]*hcl.File{}}, p.sorted()
}
