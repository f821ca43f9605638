package config

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Write prints diagnostics for people, each with the lines it is about, the
// detail wrapped at width (0 is not at all). Secrets written into the files
// are blotted out.
func (f *Files) Write(w io.Writer, diags hcl.Diagnostics, width int, color bool) error {
	files := map[string]*hcl.File{}
	for _, d := range diags {
		if d.Subject == nil || files[d.Subject.Filename] != nil {
			continue
		}
		if file := f.files[d.Subject.Filename]; file != nil {
			files[d.Subject.Filename] = &hcl.File{Body: file.Body, Bytes: blotted(file), Nav: file.Nav}
		}
	}
	plain := make(hcl.Diagnostics, len(diags))
	for i, d := range diags {
		c := *d
		c.Expression, c.EvalContext = nil, nil // with them the writer would print values
		plain[i] = &c
	}
	return hcl.NewDiagnosticTextWriter(w, files, uint(max(width, 0)), color).WriteDiagnostics(plain)
}

// diagnosticJSON is a diagnostic for programs.
type diagnosticJSON struct {
	Severity string     `json:"severity"` // error or warning
	Summary  string     `json:"summary"`
	Detail   string     `json:"detail"`
	Range    *rangeJSON `json:"range,omitempty"`
}

type rangeJSON struct {
	File  string  `json:"file"`
	Start posJSON `json:"start"`
	End   posJSON `json:"end"`
}

// posJSON counts lines and columns from 1, bytes from 0.
type posJSON struct {
	Line   int `json:"line"`
	Column int `json:"column"`
	Byte   int `json:"byte"`
}

// DiagsJSON returns the diagnostics as a JSON object: valid, errors, warnings
// (their numbers) and diagnostics, a list in the order of the files.
func (f *Files) DiagsJSON(diags hcl.Diagnostics) []byte {
	out := struct {
		Valid       bool             `json:"valid"`
		Errors      int              `json:"errors"`
		Warnings    int              `json:"warnings"`
		Diagnostics []diagnosticJSON `json:"diagnostics"`
	}{Valid: !diags.HasErrors(), Diagnostics: []diagnosticJSON{}}
	for _, d := range diags {
		j := diagnosticJSON{Severity: "error", Summary: d.Summary, Detail: d.Detail}
		if d.Severity == hcl.DiagWarning {
			j.Severity = "warning"
			out.Warnings++
		} else {
			out.Errors++
		}
		if r := d.Subject; r != nil {
			j.Range = &rangeJSON{r.Filename, posJSON{r.Start.Line, r.Start.Column, r.Start.Byte}, posJSON{r.End.Line, r.End.Column, r.End.Byte}}
		}
		out.Diagnostics = append(out.Diagnostics, j)
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		panic("config: diagnostics are plain strings and numbers: " + err.Error())
	}
	return append(b, '\n')
}

// What looks like a secret wherever it stands, also in a file that cannot be
// parsed. The last group is what is blotted out.
var secretForms = []*regexp.Regexp{
	regexp.MustCompile(`whsec_([A-Za-z0-9+/=_-]+)`),
	regexp.MustCompile(`://[^\s"/:@]*:([^"\n]*)@`),
	regexp.MustCompile(`(?i)\bpassword=('[^'\n]*'|[^\s"'&]+)`),
	regexp.MustCompile(`(?im)^[ \t]*(?:secrets?|password|passwd|token|api_?key|authorization)\s*=(.*)$`),
}

// secretNames are names of arguments, right or wrong, whose literals are
// secret.
var secretNames = regexp.MustCompile(`(?i)pass|secret|token|credential|authorization|api_?key`)

// shown returns the text of a file as it may be shown, nil when there is no such
// file.
func (f *Files) shown(name string) []byte {
	if f == nil || f.files[name] == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blotted[name] == nil {
		if f.blotted == nil {
			f.blotted = map[string][]byte{}
		}
		f.blotted[name] = blotted(f.files[name])
	}
	return f.blotted[name]
}

// blotted returns the text of a file with its secrets overwritten, byte for
// byte, so that every place stays where it is.
func blotted(file *hcl.File) []byte {
	src := bytes.Clone(file.Bytes)
	body, ok := file.Body.(*hclsyntax.Body)
	if ok {
		for _, b := range body.Blocks {
			if b.Type != "event" {
				blotBlock(src, b, false)
			}
		}
	}
	if ok {
		blotKeys(src, body)
	}
	forms := secretForms
	if ok && len(body.Blocks) > 0 {
		forms = forms[:3] // the last one is for lines of which the parser made nothing
	}
	for _, form := range forms {
		for _, m := range form.FindAllSubmatchIndex(src, -1) {
			blot(src, m[2], m[3])
		}
	}
	return src
}

// blotKeys overwrites literal keys of hmacsha256.
func blotKeys(src []byte, body *hclsyntax.Body) {
	_ = hclsyntax.VisitAll(body, func(n hclsyntax.Node) hcl.Diagnostics {
		if call, ok := n.(*hclsyntax.FunctionCallExpr); ok && len(call.Args) > 0 {
			if fn := functions[call.Name]; fn != nil && fn.secret {
				blotLiterals(src, call.Args[0])
			}
		}
		return nil
	})
}

// blotBlock overwrites the literals of a block's secret arguments. all says
// that every argument is one.
func blotBlock(src []byte, block *hclsyntax.Block, all bool) {
	var def *Block
	for _, b := range Language() {
		if b.Name == block.Type && (b.Name != "sink" || b == webhookBlock) {
			def = b
		}
	}
	for name, attr := range block.Body.Attributes {
		var arg *Argument
		if def != nil {
			arg = def.argument(name)
		}
		switch {
		case arg != nil && arg.Type == TypeSecret:
			blotURL(src, attr.Expr.Range())
		case all || secretNames.MatchString(name) || (arg != nil && arg.Type.secret()):
			blotLiterals(src, attr.Expr)
		}
	}
	for _, b := range block.Body.Blocks {
		blotBlock(src, b, b.Type == "headers" || secretNames.MatchString(b.Type))
	}
}

var urlSecrets = []*regexp.Regexp{
	regexp.MustCompile(`\?([^"#]+)`),
	regexp.MustCompile(`(?i)\bpassword\s*=\s*('[^'\n]*'|[^\s"'&]+)`),
}

// blotURL overwrites what is secret in a URL beyond secretForms: its query.
func blotURL(src []byte, at hcl.Range) {
	if at.End.Byte < at.Start.Byte { // the parser lost its place
		at.End.Byte = len(src)
	}
	for _, form := range urlSecrets {
		for _, m := range form.FindAllSubmatchIndex(src[at.Start.Byte:at.End.Byte], -1) {
			blot(src, at.Start.Byte+m[2], at.Start.Byte+m[3])
		}
	}
}

// blotLiterals overwrites the literals of an expression, except the names that
// env and file are called with and the keys of maps.
func blotLiterals(src []byte, expr hclsyntax.Expression) {
	switch x := expr.(type) {
	case *hclsyntax.LiteralValueExpr:
		blot(src, x.SrcRange.Start.Byte, x.SrcRange.End.Byte)
	case *hclsyntax.ParenthesesExpr:
		blotLiterals(src, x.Expression)
	case *hclsyntax.TemplateWrapExpr:
		blotLiterals(src, x.Wrapped)
	case *hclsyntax.TemplateExpr:
		for _, p := range x.Parts {
			blotLiterals(src, p)
		}
	case *hclsyntax.TupleConsExpr:
		for _, p := range x.Exprs {
			blotLiterals(src, p)
		}
	case *hclsyntax.ObjectConsExpr:
		for _, p := range x.Items {
			blotLiterals(src, p.ValueExpr)
		}
	case *hclsyntax.FunctionCallExpr:
		for i, p := range x.Args {
			if i > 0 || (x.Name != "env" && x.Name != "file") {
				blotLiterals(src, p)
			}
		}
	default:
		_ = hclsyntax.VisitAll(expr, func(n hclsyntax.Node) hcl.Diagnostics {
			if lit, ok := n.(*hclsyntax.LiteralValueExpr); ok {
				blot(src, lit.SrcRange.Start.Byte, lit.SrcRange.End.Byte)
			}
			return nil
		})
	}
}

func blot(src []byte, from, to int) {
	for i := from; i >= 0 && i < to && i < len(src); i++ {
		if src[i] != '\n' && src[i] != '\r' {
			src[i] = '*'
		}
	}
}
