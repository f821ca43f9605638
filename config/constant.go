package config

import (
	"errors"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

type constKind uint8

const (
	nullConst constKind = iota
	// unknownConst stands for a variable or file that a check does without.
	unknownConst
	boolConst
	numberConst
	textConst
	listConst
	objectConst
)

// constant is a setting as it was written, with the place of each of its parts.
type constant struct {
	kind   constKind
	bool   bool
	number *big.Float
	// text is that of a string, and of a number its digits as they were written,
	// where they are known.
	text  string
	items []constant
	keys  []constant // of an object, beside items
	// partial: an entry of the list or map was wrong and is left out.
	partial bool
	// secret: env() or file() had a part in it. Nothing may print it.
	secret bool
	at     hcl.Range
}

// show names the value in a diagnostic.
func (v constant) show() string {
	switch {
	case v.secret:
		return "the value that env() or file() gave"
	case v.kind == boolConst && v.bool:
		return "true"
	case v.kind == boolConst:
		return "false"
	case v.kind == numberConst:
		return v.number.Text('g', 15)
	case v.kind == textConst:
		return `"` + v.text + `"`
	case v.kind == listConst:
		return "a list"
	case v.kind == objectConst:
		return "a map"
	}
	return "null"
}

// evaluator computes the values of settings: literals, templates, lists, maps,
// locals, env() and file(). It is not HCL's own because that prints variables
// in diagnostics, and because each part of a value keeps its place.
type evaluator struct {
	*problems
	opts   *Options
	files  *Files
	locals *locals
	steps  int
}

// Bounds of one evaluation: locals that name each other twice would otherwise
// grow without end.
const (
	maxSteps       = 100_000
	maxSettingText = 1 << 20
)

// eval returns false when it has reported a mistake. A list or map with a wrong
// entry comes without it, so that the others are judged too.
func (e *evaluator) eval(expr hclsyntax.Expression) (constant, bool) {
	at := expr.Range()
	if e.steps++; e.steps > maxSteps {
		if e.steps == maxSteps+1 {
			e.errorf(at, "Setting is too large", "The settings have more parts than rowhook reads, through locals that name other locals again and again.")
		}
		return constant{}, false
	}
	switch x := expr.(type) {
	case *hclsyntax.ParenthesesExpr:
		return e.eval(x.Expression)
	case *hclsyntax.TemplateWrapExpr:
		return e.eval(x.Wrapped)
	case *hclsyntax.ObjectConsKeyExpr:
		if word := hcl.ExprAsKeyword(x.Wrapped); word != "" {
			return constant{kind: textConst, text: word, at: at}, true
		}
		return e.eval(x.Wrapped)
	case *hclsyntax.LiteralValueExpr:
		v := literal(x.Val, at)
		v.text = e.digits(x, v.text)
		return v, true
	case *hclsyntax.UnaryOpExpr:
		if v, ok := e.negated(x); ok {
			return v, true
		}
	case *hclsyntax.TemplateExpr:
		return e.template(x)
	case *hclsyntax.TupleConsExpr:
		v := constant{kind: listConst, at: at}
		for _, item := range x.Exprs {
			if iv, ok := e.eval(item); ok {
				v.items = append(v.items, iv)
			} else {
				v.partial = true
			}
		}
		return v, true
	case *hclsyntax.ObjectConsExpr:
		return e.object(x)
	case *hclsyntax.FunctionCallExpr:
		return e.call(x)
	case *hclsyntax.ScopeTraversalExpr:
		return e.variable(x)
	}
	if unparsed(expr) {
		return constant{}, false
	}
	e.errorf(at, "Setting is not a fixed value", "Outside events, a value is a literal, a list or a map of literals, a template, a local, env(\"NAME\") or file(\"path\"). Write out the result of the expression.")
	return constant{}, false
}

// unparsed reports whether the parser, which has said so, could not read a part
// of the expression.
func unparsed(expr hclsyntax.Expression) bool {
	found := false
	_ = hclsyntax.VisitAll(expr, func(n hclsyntax.Node) hcl.Diagnostics {
		switch x := n.(type) {
		case *hclsyntax.ExprSyntaxError:
			found = true
		case *hclsyntax.LiteralValueExpr:
			found = found || !x.Val.IsKnown()
		}
		return nil
	})
	return found
}

func literal(v cty.Value, at hcl.Range) constant {
	switch {
	case v.IsNull():
		return constant{kind: nullConst, at: at}
	case v.Type() == cty.Bool:
		return constant{kind: boolConst, bool: v.True(), at: at}
	case v.Type() == cty.Number:
		return constant{kind: numberConst, number: v.AsBigFloat(), at: at}
	case v.Type() == cty.String:
		return constant{kind: textConst, text: v.AsString(), at: at}
	}
	return constant{kind: unknownConst, at: at} // the parser's mark for what it could not read
}

func (e *evaluator) negated(x *hclsyntax.UnaryOpExpr) (constant, bool) {
	lit, ok := x.Val.(*hclsyntax.LiteralValueExpr)
	if !ok || x.Op != hclsyntax.OpNegate || lit.Val.IsNull() || lit.Val.Type() != cty.Number {
		return constant{}, false
	}
	v := constant{kind: numberConst, number: new(big.Float).Neg(lit.Val.AsBigFloat()), at: x.SrcRange}
	if digits := e.digits(lit, ""); digits != "" {
		v.text = "-" + digits
	}
	return v, true
}

var decimalForm = regexp.MustCompile(`^(0|[1-9][0-9]*)(\.[0-9]+)?$`)

// digits returns a number as it was written, so that 12.50 keeps its zero, and
// otherwise what it was given.
func (e *evaluator) digits(x *hclsyntax.LiteralValueExpr, otherwise string) string {
	if e.files == nil || e.files.files[x.SrcRange.Filename] == nil || x.Val.IsNull() || x.Val.Type() != cty.Number {
		return otherwise
	}
	if text := x.SrcRange.SliceBytes(e.files.files[x.SrcRange.Filename].Bytes); decimalForm.Match(text) {
		return string(text)
	}
	return otherwise
}

func (e *evaluator) template(x *hclsyntax.TemplateExpr) (constant, bool) {
	v, ok := constant{kind: textConst, at: x.SrcRange}, true
	var b strings.Builder
	for _, part := range x.Parts {
		if b.Len() > maxSettingText {
			e.errorf(x.SrcRange, "Setting is too large", "A string of a setting has at most 1 MiB.")
			return constant{}, false
		}
		p, pok := e.eval(part)
		if !pok {
			ok = false
			continue
		}
		v.secret = v.secret || p.secret
		switch p.kind {
		case textConst:
			b.WriteString(p.text)
		case numberConst, boolConst:
			b.WriteString(p.show())
		case unknownConst:
			v.kind = unknownConst
		default:
			e.errorf(p.at, "Template part is not a string", "A template joins strings, numbers and bools; this is %s.", p.show())
			ok = false
		}
	}
	v.text = b.String()
	return v, ok
}

func (e *evaluator) object(x *hclsyntax.ObjectConsExpr) (constant, bool) {
	v := constant{kind: objectConst, at: x.SrcRange}
	for _, item := range x.Items {
		key, kok := e.eval(item.KeyExpr)
		val, vok := e.eval(item.ValueExpr)
		if kok && key.kind != textConst {
			e.errorf(key.at, "Key of a map is not a string", "Write the key as a word or in quotes.")
			kok = false
		}
		if !kok || !vok {
			v.partial = true
			continue
		}
		v.keys, v.items = append(v.keys, key), append(v.items, val)
	}
	return v, true
}

func (e *evaluator) variable(x *hclsyntax.ScopeTraversalExpr) (constant, bool) {
	root := x.Traversal.RootName()
	if root != "local" {
		word := traversalText(x.Traversal)
		e.errorf(x.SrcRange, "Name where a value is needed", "Outside events, %s stands for nothing. For a string, write it in quotes; for an environment variable, write env(\"NAME\").", word)
		return constant{}, false
	}
	name, ok := localName(x.Traversal)
	if !ok || len(x.Traversal) != 2 {
		e.errorf(x.SrcRange, "Invalid use of a local", "Outside events, a local is named by local.NAME and used as a whole.")
		return constant{}, false
	}
	l := e.locals.use(name)
	if l == nil {
		e.errorf(x.SrcRange, "Unknown local", "There is no local named %s.%s Define it in a block: locals { %s = ... }", name, didYouMean(name, e.locals.names()), name)
		return constant{}, false
	}
	if l.cyclic {
		return constant{}, false // reported at its definition
	}
	v, ok := e.eval(l.expr)
	v.at = x.SrcRange // a mistake is in what uses it
	return v, ok
}

// traversalText is a.b.c as far as it is made of names.
func traversalText(t hcl.Traversal) string {
	var b strings.Builder
	for _, step := range t {
		switch s := step.(type) {
		case hcl.TraverseRoot:
			b.WriteString(s.Name)
		case hcl.TraverseAttr:
			b.WriteString("." + s.Name)
		default:
			return b.String() + "[...]"
		}
	}
	return b.String()
}

func (e *evaluator) call(x *hclsyntax.FunctionCallExpr) (constant, bool) {
	at := x.Range()
	if x.Name != "env" && x.Name != "file" {
		e.errorf(x.NameRange, "Unknown function", "Outside events there are only env(\"NAME\"), env(\"NAME\", \"default\") and file(\"path\"); there is no %s.%s", x.Name, didYouMean(x.Name, []string{"env", "file"}))
		return constant{}, false
	}
	args, ok := e.arguments(x)
	if !ok {
		return constant{}, false
	}
	if x.Name == "file" {
		return e.file(args[0], at)
	}
	if s, set := e.opts.getenv(args[0]); set && s != "" {
		return constant{kind: textConst, text: s, secret: true, at: at}, true
	}
	if len(args) == 2 {
		return constant{kind: textConst, text: args[1], secret: true, at: at}, true
	}
	return e.missing(at, "Environment variable is not set", "The variable %s is not set, or is empty. Set it where rowhook runs, or give a default: env(\"%s\", \"...\").", args[0], args[0])
}

// arguments returns the arguments of env or file, which are literal strings:
// what a file asks for must be readable in it.
func (e *evaluator) arguments(x *hclsyntax.FunctionCallExpr) ([]string, bool) {
	form, most := `file("path")`, 1
	if x.Name == "env" {
		form, most = `env("NAME") or env("NAME", "default")`, 2
	}
	var args []string
	good := len(x.Args) > 0 && len(x.Args) <= most && !x.ExpandFinal
	for _, a := range x.Args {
		v, diags := a.Value(nil) // without variables and functions only literals have a value
		if diags.HasErrors() || v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
			good = false
			break
		}
		args = append(args, v.AsString())
	}
	if !good || args[0] == "" {
		e.errorf(x.Range(), "Invalid call of "+x.Name, "The form is %s, with literal strings.", form)
		return nil, false
	}
	return args, true
}

// maxSecretFile bounds what file() reads.
const maxSecretFile = 64 << 10

// file reads a secret. A relative path starts at the folder of the file that
// names it. One line break at the end is not part of the value: nearly every
// tool that writes such a file adds one.
func (e *evaluator) file(path string, at hcl.Range) (constant, bool) {
	full := path
	if !filepath.IsAbs(full) {
		full = filepath.Join(filepath.Dir(at.Filename), full)
	}
	b, err := e.opts.readFile(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.missing(at, "File cannot be read", "%s does not exist. A relative path starts at the folder of this file.", full)
	case errors.Is(err, fs.ErrPermission):
		return e.missing(at, "File cannot be read", "The user rowhook runs as may not read %s.", full)
	case err != nil:
		return e.missing(at, "File cannot be read", "%s cannot be read as a file.", full)
	case len(b) > maxSecretFile:
		return e.missing(at, "File cannot be read", "%s is larger than 64 KiB, which is no secret.", full)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" {
		return e.missing(at, "File cannot be read", "%s is empty.", full)
	}
	return constant{kind: textConst, text: s, secret: true, at: at}, true
}

// missing reports what the surroundings do not supply: an error, or a warning
// where the surroundings are not those of the daemon.
func (e *evaluator) missing(at hcl.Range, summary, format string, args ...any) (constant, bool) {
	if e.opts.WithoutSecrets {
		e.warnf(at, summary, format, args...)
		return constant{kind: unknownConst, secret: true, at: at}, true
	}
	e.errorf(at, summary, format, args...)
	return constant{}, false
}

// readSecretFile reads at most one byte more than a secret may have.
func readSecretFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSecretFile+1))
}
