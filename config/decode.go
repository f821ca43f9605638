package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// body is a block that was decoded by its definition.
type body struct {
	def    *Block
	at     hcl.Range // the header
	labels []settingText
	args   map[string]*setting
	blocks map[string]*body
	// repeated are the inner blocks that may stand several times, in the order of
	// the file.
	repeated []*body
	// free is the content of a block whose arguments have names of the user's.
	free *hclsyntax.Body
}

// setting is an argument that stands in the file. A setting whose value was
// wrong has been reported and has no val.
type setting struct {
	def  *Argument
	name hcl.Range
	expr hclsyntax.Expression
	val  any
}

// settingText is a string setting, or a string in a list or map.
type settingText struct {
	s string
	// secret: see constant. unknown: the surroundings did not supply it.
	secret, unknown bool
	at              hcl.Range
}

// pair is an entry of a map.
type pair struct{ key, val settingText }

// show names the text in a diagnostic.
func (t settingText) show() string {
	return constant{kind: textConst, text: t.s, secret: t.secret}.show()
}

// decode reads a block by its definition. Whatever is wrong is reported; the
// result is as complete as the block allows.
func (e *evaluator) decode(def *Block, block *hclsyntax.Block) *body {
	b := &body{def: def, at: block.DefRange(), args: map[string]*setting{}, blocks: map[string]*body{}}
	b.labels = e.decodeLabels(def, block)
	if def.Free {
		b.free = block.Body
		return b
	}
	for _, attr := range inOrder(block.Body.Attributes) {
		arg := def.argument(attr.Name)
		if arg == nil {
			e.unknownArgument(def, attr)
			continue
		}
		s := &setting{def: arg, name: attr.NameRange, expr: attr.Expr}
		if arg.Type == TypeExpression || arg.Type == TypeSource {
			s.val = attr.Expr
		} else if v, ok := e.eval(attr.Expr); ok {
			if v.kind == nullConst && arg.Type != TypeValue {
				continue // as in Terraform, null is the same as leaving the argument out
			}
			if val, ok := e.convert(arg, v); ok {
				s.val = val
			}
		}
		b.args[attr.Name] = s
	}
	for i := range def.Arguments {
		if arg := &def.Arguments[i]; arg.Required && b.args[arg.Name] == nil {
			e.errorf(b.at, "Missing argument", "%s block needs the argument %s: %s", upperFirst(article(def.title())), arg.Name, firstSentence(arg.Doc))
		}
	}
	for _, inner := range block.Body.Blocks {
		child := def.block(inner.Type)
		switch {
		case child == nil:
			e.unknownBlock(def, inner)
		case child.Many:
			b.repeated = append(b.repeated, e.decode(child, inner))
		case b.blocks[inner.Type] != nil:
			e.errorf(inner.DefRange(), "Duplicate block", "The block %s already stands in line %d. Join the two.", inner.Type, b.blocks[inner.Type].at.Start.Line)
		default:
			b.blocks[inner.Type] = e.decode(child, inner)
		}
	}
	for _, child := range def.Blocks {
		if b.blocks[child.Name] == nil && !child.Many {
			b.blocks[child.Name] = &body{def: child, at: b.at}
		}
	}
	return b
}

func (e *evaluator) decodeLabels(def *Block, block *hclsyntax.Block) []settingText {
	labels := make([]settingText, len(def.Labels))
	form := def.Name
	for _, l := range def.Labels {
		if len(l.OneOf) == 1 {
			form += ` "` + l.OneOf[0] + `"`
		} else {
			form += ` "` + strings.ToUpper(l.Name) + `"`
		}
	}
	for i := range block.Labels {
		if i >= len(def.Labels) {
			e.errorf(block.LabelRanges[i], "Label not expected", "The form is: %s { ... }", form)
			continue
		}
		labels[i] = settingText{s: block.Labels[i], at: block.LabelRanges[i]}
	}
	if n := len(block.Labels); n < len(def.Labels) {
		for i := n; i < len(def.Labels); i++ {
			labels[i].at = block.DefRange()
		}
		e.errorf(block.DefRange(), "Missing label", "The form is: %s { ... }. %s", form, def.Labels[len(def.Labels)-1].Doc)
		return labels
	}
	for i, l := range def.Labels {
		if len(l.OneOf) > 0 && !slices.Contains(l.OneOf, labels[i].s) {
			e.errorf(labels[i].at, "Unknown type of "+def.Name, "There is no %s \"%s\". The form is: %s { ... }", def.Name, labels[i].s, form)
		}
	}
	return labels
}

func (e *evaluator) unknownArgument(def *Block, attr *hclsyntax.Attribute) {
	name := attr.Name
	if def.block(name) != nil {
		e.errorf(attr.NameRange, "Block written as an argument", "%s is a block: write %s { ... } without the equals sign.", name, name)
		return
	}
	e.errorf(attr.NameRange, "Unknown argument", "%s block has no argument named %s.%s", upperFirst(article(def.title())), name, remedy(def, name))
}

func (e *evaluator) unknownBlock(def *Block, block *hclsyntax.Block) {
	name := block.Type
	if def != nil {
		if arg := def.argument(name); arg != nil {
			e.errorf(block.TypeRange, "Argument written as a block", "%s is an argument: write %s = %s with an equals sign.", name, name, arg.Type.form())
			return
		}
	}
	where := "At the top level of a file there is no block named " + name + "."
	if def != nil {
		where = upperFirst(article(def.title())) + " block has no block named " + name + " inside."
	}
	e.errorf(block.TypeRange, "Unknown block", "%s%s", where, remedy(def, name))
}

// remedy says what an unknown name was probably meant to be. def is nil at the
// top level.
func remedy(def *Block, name string) string {
	var known []string
	if def != nil {
		known = def.names()
	} else {
		for _, b := range Language() {
			known = append(known, b.Name)
		}
	}
	near := nearest(name, known)
	if near != "" && distance(near, name) <= 2 {
		return " Did you mean " + near + "?"
	}
	if home := homeOf(def, name); home != "" {
		return " It belongs in " + home + "."
	}
	if near != "" {
		return " Did you mean " + near + "?"
	}
	if len(known) == 0 {
		return ""
	}
	return " There is " + list(unique(known), "and") + "."
}

func unique(words []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, w := range words {
		if !seen[w] {
			seen[w] = true
			out = append(out, w)
		}
	}
	return out
}

// arg returns the argument as it stands in the file, or nil.
func (b *body) arg(name string) *setting {
	if b.def.argument(name) == nil {
		panic("config: " + b.def.Name + " has no argument " + name)
	}
	return b.args[name]
}

// where returns the place of an argument's value, or of the block when the
// argument is not there.
func (b *body) where(name string) hcl.Range {
	if s := b.arg(name); s != nil {
		return s.expr.Range()
	}
	return b.at
}

// get returns the value of an argument, or its default when it is left out or
// was wrong.
func get[T any](b *body, name string) T {
	if s := b.arg(name); s != nil && s.val != nil {
		return s.val.(T)
	}
	def := b.def.argument(name)
	if def.Default == "" {
		var zero T
		return zero
	}
	return defaultOf(def).(T)
}

// defaultOf evaluates the default of an argument. Defaults are ours, so that a
// wrong one is a bug.
func defaultOf(arg *Argument) any {
	expr, diags := hclsyntax.ParseExpression([]byte(arg.Default), "default of "+arg.Name, hcl.InitialPos)
	e := &evaluator{problems: &problems{list: diags}}
	if v, ok := e.eval(expr); ok {
		if val, ok := e.convert(arg, v); ok && len(e.list) == 0 {
			return val
		}
	}
	panic("config: default of " + arg.Name + ": " + e.list.Error())
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func firstSentence(s string) string {
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i+1]
	}
	return s
}
