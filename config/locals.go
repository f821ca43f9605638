package config

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

var localsBlock = &Block{
	Name: "locals",
	Many: true,
	Free: true,
	Doc: "Names for expressions, used as local.NAME in events and settings. A local means what its expression would mean where it is used. " +
		"Names are unique over all files; the order does not matter.",
}

// local is one named expression.
type local struct {
	name   string
	expr   hclsyntax.Expression
	at     hcl.Range // of the name
	whole  hcl.Range // of name and expression
	used   bool
	cyclic bool // it needs itself, or a local that does
}

// locals are those of all files.
type locals struct {
	byName map[string]*local
	order  []*local
}

// add takes the arguments of one locals block.
func (ls *locals) add(p *problems, block *hclsyntax.Block) {
	for _, label := range block.LabelRanges {
		p.errorf(label, "Label not expected", "A locals block has no label: locals { ... }")
	}
	for _, b := range block.Body.Blocks {
		p.errorf(b.TypeRange, "Block not expected", "A locals block holds only names and expressions: %s = { ... }", b.Type)
	}
	for _, attr := range inOrder(block.Body.Attributes) {
		if other, ok := ls.byName[attr.Name]; ok {
			p.errorf(attr.NameRange, "Duplicate local", "A local named %s is already defined in %s. Names of locals are unique over all files.", attr.Name, place(other.at))
			continue
		}
		l := &local{name: attr.Name, expr: attr.Expr, at: attr.NameRange, whole: attr.SrcRange}
		ls.byName[attr.Name] = l
		ls.order = append(ls.order, l)
	}
}

// inOrder returns attributes as they stand in the file.
func inOrder(attrs hclsyntax.Attributes) []*hclsyntax.Attribute {
	list := make([]*hclsyntax.Attribute, 0, len(attrs))
	for _, a := range attrs {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *hclsyntax.Attribute) int { return a.NameRange.Start.Byte - b.NameRange.Start.Byte })
	return list
}

// localName returns NAME of a traversal that begins with local.NAME.
func localName(t hcl.Traversal) (string, bool) {
	if len(t) < 2 || t.RootName() != "local" {
		return "", false
	}
	attr, ok := t[1].(hcl.TraverseAttr)
	return attr.Name, ok
}

// needs returns the locals that an expression names itself.
func (ls *locals) needs(expr hclsyntax.Expression) []*local {
	var found []*local
	for _, t := range expr.Variables() {
		if name, ok := localName(t); ok {
			if l := ls.byName[name]; l != nil && !slices.Contains(found, l) {
				found = append(found, l)
			}
		}
	}
	return found
}

// reach returns the locals that the expressions need, directly or through
// others, in the order of their names' definitions, and marks them used.
func (ls *locals) reach(exprs ...hclsyntax.Expression) []*local {
	seen := map[*local]bool{}
	var todo []*local
	for _, x := range exprs {
		if x != nil {
			todo = append(todo, ls.needs(x)...)
		}
	}
	for len(todo) > 0 {
		l := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !seen[l] {
			seen[l], l.used = true, true
			todo = append(todo, ls.needs(l.expr)...)
		}
	}
	var found []*local
	for _, l := range ls.order {
		if seen[l] {
			found = append(found, l)
		}
	}
	return found
}

// use returns the named local, or nil, and marks it used.
func (ls *locals) use(name string) *local {
	l := ls.byName[name]
	if l != nil {
		l.used = true
	}
	return l
}

func (ls *locals) names() []string {
	names := make([]string, len(ls.order))
	for i, l := range ls.order {
		names[i] = l.name
	}
	return names
}

func (ls *locals) expressions() map[string]hcl.Expression {
	m := make(map[string]hcl.Expression, len(ls.order))
	for _, l := range ls.order {
		m[l.name] = l.expr
	}
	return m
}

// checkCycles reports locals that need themselves.
func (ls *locals) checkCycles(p *problems) {
	const visiting, done = 1, 2
	state := map[*local]int{}
	var path []*local
	var visit func(l *local) bool
	visit = func(l *local) bool {
		switch state[l] {
		case done:
			return l.cyclic
		case visiting:
			p.errorf(l.at, "Local needs itself", "%s", cycleText(path[slices.Index(path, l):]))
			return true
		}
		state[l] = visiting
		path = append(path, l)
		for _, n := range ls.needs(l.expr) {
			l.cyclic = visit(n) || l.cyclic
		}
		path = path[:len(path)-1]
		state[l] = done
		return l.cyclic
	}
	for _, l := range ls.order {
		visit(l)
	}
}

func cycleText(cycle []*local) string {
	s := ""
	for _, l := range cycle {
		s += "local." + l.name + " needs "
	}
	return s + "local." + cycle[0].name + ". Write one of them without the other."
}

// checkUsed warns of locals that nothing needs. Their expressions are judged
// only where they are used, so a mistake in them would go unnoticed.
func (ls *locals) checkUsed(p *problems) {
	for _, l := range ls.order {
		if !l.used && !l.cyclic {
			p.warnf(l.at, "Local is never used", "Nothing names local.%s, so its expression is not checked. Remove it, or use it.", l.name)
		}
	}
}
