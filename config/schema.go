package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/rowhook/rowhook/config/contract"
)

var schemaBlock = &Block{
	Name: "schema",
	Free: true,
	Doc: "The attributes of the event's data and their types: NAME = TYPE. The types are string, number, integer, bool, any, uuid, date, timestamp (with a time zone), local_timestamp (without), " +
		"enum(\"a\", \"b\"), list(TYPE), map(TYPE) and { NAME = TYPE }; nullable(TYPE) may be null, optional(TYPE) may be left out, and description(TYPE, \"...\") says to receivers what the attribute means. Check holds the expressions against them where it can. " +
		"What only an event's values tell is looked at when it is made: data that does not fit makes a dead letter. Attributes of a payload that the schema does not name are let through.",
}

// schemaDecl is the schema block of an event.
type schemaDecl struct {
	typ contract.Type
	at  hcl.Range
	// places are those of the attributes, by their path.
	places map[string]hcl.Range
}

// schema reads the schema block of an event; nil when there is none.
func (e *evaluator) schema(b *body) *schemaDecl {
	block := b.blocks["schema"]
	if block == nil || block.free == nil {
		return nil
	}
	s := &schemaDecl{typ: contract.ObjectOf(), at: block.at, places: map[string]hcl.Range{}}
	for _, attr := range inOrder(block.free.Attributes) {
		s.places[attr.Name] = attr.SrcRange
		s.typ.Fields = append(s.typ.Fields, e.schemaField(attr.Name, attr.Expr))
	}
	for _, inner := range block.free.Blocks {
		e.errorf(inner.TypeRange, "Block not expected", "A schema block holds only names and types. Write the type of an object as %s = { ... }", inner.Type)
	}
	return s
}

func (e *evaluator) schemaField(name string, expr hclsyntax.Expression) contract.Field {
	f := contract.Field{Name: name}
	for {
		call, ok := expr.(*hclsyntax.FunctionCallExpr)
		switch {
		case ok && call.Name == "optional" && len(call.Args) == 1:
			f.Optional = true
		case ok && call.Name == "description" && len(call.Args) == 2:
			f.Doc = e.schemaDoc(call.Args[1])
		default:
			f.Type = e.schemaType(expr)
			return f
		}
		expr = call.Args[0]
	}
}

// schemaDoc reads what description(TYPE, "...") says of an attribute.
func (e *evaluator) schemaDoc(expr hclsyntax.Expression) string {
	v, diags := expr.Value(nil)
	if diags.HasErrors() || v.IsNull() || v.Type() != cty.String || strings.TrimSpace(v.AsString()) == "" {
		e.errorf(expr.Range(), sumSchemaType, "What an attribute means is a string, as in description(integer, \"The total in cents.\").")
		return ""
	}
	return strings.TrimSpace(v.AsString())
}

// schemaWords are the types that are one word.
var schemaWords = map[string]contract.Type{
	"string": contract.Of(isString), "number": contract.Of(isNumber), "integer": {Kinds: isNumber, Integer: true}, "bool": contract.Of(isBool), "any": contract.Any(),
	"uuid": contract.Formatted(contract.UUID), "date": contract.Formatted(contract.Date),
	"timestamp": contract.Formatted(contract.Timestamp), "local_timestamp": contract.Formatted(contract.LocalTimestamp),
}

const sumSchemaType = "Invalid type in a schema"

func (e *evaluator) schemaType(expr hclsyntax.Expression) contract.Type {
	switch x := expr.(type) {
	case *hclsyntax.ScopeTraversalExpr:
		word := x.Traversal.RootName()
		if t, ok := schemaWords[word]; ok && len(x.Traversal) == 1 {
			return t
		}
		e.errorf(x.SrcRange, sumSchemaType, "There is no type %s.%s The types are %s, enum(...), list(...), map(...), nullable(...) and { NAME = TYPE }.",
			word, didYouMean(word, slices.Sorted(maps.Keys(schemaWords))), list(slices.Sorted(maps.Keys(schemaWords)), "and"))
		return contract.Any()
	case *hclsyntax.ObjectConsExpr:
		return e.schemaObject(x)
	case *hclsyntax.FunctionCallExpr:
		return e.schemaCall(x)
	case *hclsyntax.TemplateExpr:
		e.errorf(x.SrcRange, sumSchemaType, "A type is a word and not a string: write it without quotes; a string that is always the same is enum(\"...\").")
		return contract.Any()
	}
	e.errorf(expr.Range(), sumSchemaType, "A type is a word such as string, a call such as list(string), or { NAME = TYPE }.")
	return contract.Any()
}

func (e *evaluator) schemaObject(x *hclsyntax.ObjectConsExpr) contract.Type {
	o := contract.ObjectOf()
	for _, item := range x.Items {
		name := hcl.ExprAsKeyword(item.KeyExpr)
		if name == "" {
			if v, diags := item.KeyExpr.Value(nil); !diags.HasErrors() && v.Type() == cty.String && !v.IsNull() {
				name = v.AsString()
			}
		}
		switch {
		case name == "":
			e.errorf(item.KeyExpr.Range(), sumSchemaType, "The name of an attribute is a word or a string.")
		case o.Field(name) != nil:
			e.errorf(item.KeyExpr.Range(), sumSchemaType, "The attribute %s is already there. Remove one of the two.", name)
		default:
			o.Fields = append(o.Fields, e.schemaField(name, item.ValueExpr))
		}
	}
	return o
}

func (e *evaluator) schemaCall(x *hclsyntax.FunctionCallExpr) contract.Type {
	if x.Name == "enum" {
		return e.schemaEnum(x)
	}
	known := []string{"description", "enum", "list", "map", "nullable", "object", "optional"}
	if !slices.Contains(known, x.Name) {
		e.errorf(x.NameRange, sumSchemaType, "There is no type %s(...).%s", x.Name, didYouMean(x.Name, known))
		return contract.Any()
	}
	if x.Name == "description" {
		if len(x.Args) != 2 {
			e.errorf(x.Range(), sumSchemaType, "description needs a type and what it means, as in description(integer, \"The total in cents.\").")
		} else {
			e.errorf(x.Range(), sumSchemaType, "Only an attribute has a description: write it around the whole type, as in NAME = description(list(string), \"...\").")
		}
		return contract.Any()
	}
	if len(x.Args) != 1 {
		e.errorf(x.Range(), sumSchemaType, "%s needs one type in parentheses, as in %s(string).", x.Name, x.Name)
		return contract.Any()
	}
	if x.Name == "optional" {
		e.errorf(x.Range(), sumSchemaType, "Only an attribute can be optional. For a value that may be null write nullable(...).")
		return contract.Any()
	}
	t := e.schemaType(x.Args[0])
	switch x.Name {
	case "list":
		return contract.ListOf(t)
	case "map":
		return contract.MapOf(t)
	case "nullable":
		return t.Nullable()
	}
	return t // object({ ... })
}

func (e *evaluator) schemaEnum(x *hclsyntax.FunctionCallExpr) contract.Type {
	var values []string
	for _, a := range x.Args {
		v, diags := a.Value(nil)
		if diags.HasErrors() || v.IsNull() || v.Type() != cty.String {
			e.errorf(a.Range(), sumSchemaType, "The values of an enum are strings, as in enum(\"paid\", \"refunded\").")
			continue
		}
		values = append(values, v.AsString())
	}
	if len(x.Args) == 0 {
		e.errorf(x.Range(), sumSchemaType, "An enum needs its values, as in enum(\"paid\", \"refunded\").")
	}
	if values == nil {
		return contract.Of(isString)
	}
	return contract.OneOf(values...)
}

const (
	sumSchemaMisfit = "Data does not fit the schema"
	sumSchemaMay    = "Data may not fit the schema"
	sumSchemaExtra  = "Attribute is not in the schema"
)

// checkSchema holds the type of the data against the schema.
func (c *checker) checkSchema(e *ruleExprs, data contract.Type) {
	s := e.scope.schema
	c.outer = e.data.rng
	for _, m := range contract.Fit(data, s.typ, true) {
		n := dataNode(e.data.node, m.Path)
		where := m.Path
		if where == "" {
			where = "data"
		}
		cure := ""
		switch {
		case strings.Contains(m.Why, "may be null"):
			cure = " Give a value with coalesce(), test for null in when, or declare it nullable(...)."
		case strings.Contains(m.Why, "left out"):
			cure = " Have it always sent with REPLICA IDENTITY FULL, or declare it optional(...)."
			if e.scope.listed {
				cure = " Declare it optional(...)." + e.scope.noFull()
			}
		case strings.Contains(m.Why, "not there"):
			cure = " Add it, or declare it optional(...)."
		}
		text := fmt.Sprintf("%s %s; the schema in line %d says %s.%s", where, m.Why, c.schemaLine(s, m.Path), schemaText(s.typ, m.Path), cure)
		if m.Narrow {
			c.add(n, hcl.DiagWarning, someRows, sumSchemaMay, "%s What does not fit makes a dead letter.", text)
			continue
		}
		c.add(n, hcl.DiagError, someRows, sumSchemaMisfit, "%s", text)
	}
	c.extra(e.data.node, data, s, s.typ, "")
}

// extra reports attributes that the schema does not name.
func (c *checker) extra(data node, have contract.Type, s *schemaDecl, want contract.Type, path string) {
	if want.Rest != nil || want.Kinds&isObject == 0 || want.Dynamic() || have.Dynamic() {
		return
	}
	for _, f := range have.Fields {
		at := strings.TrimPrefix(path+"."+f.Name, ".")
		w := want.Field(f.Name)
		if w == nil {
			var known []string
			for _, f := range want.Fields {
				known = append(known, f.Name)
			}
			c.report(dataNode(data, at), sumSchemaExtra, "The schema in line %d does not have the attribute %s.%s Add it there, or leave it out here.", c.schemaLine(s, path), at, didYouMean(f.Name, known))
			continue
		}
		c.extra(data, f.Type, s, w.Type, at)
	}
}

func (c *checker) schemaLine(s *schemaDecl, path string) int {
	name, _, _ := strings.Cut(strings.ReplaceAll(path, "[]", ""), ".")
	if at, ok := s.places[name]; ok {
		return at.Start.Line
	}
	return s.at.Start.Line
}

// schemaText names the type a schema has at a path.
func schemaText(t contract.Type, path string) string {
	for path != "" {
		var step string
		step, path, _ = strings.Cut(path, ".")
		name, lists := strings.TrimRight(step, "[]"), strings.Count(step, "[]")
		if name != "" {
			f := t.Field(name)
			if f == nil {
				break
			}
			t = f.Type
		}
		for range lists {
			t = t.Element()
		}
	}
	return t.String()
}

// dataNode finds the expression that makes what is at a path of the data, or
// what is nearest to it.
func dataNode(n node, path string) node {
	for path != "" {
		o, ok := n.(objectNode)
		if !ok {
			break
		}
		var step string
		step, path, _ = strings.Cut(path, ".")
		name := strings.TrimRight(step, "[]")
		i := slices.IndexFunc(o.items, func(it objectItem) bool { return it.key == nil && it.name == name })
		if i < 0 {
			break
		}
		n = o.items[i].val
	}
	return n
}
