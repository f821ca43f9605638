package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// edit replaces a part of a file.
type edit struct {
	from, to int // bytes; equal for an insertion
	text     string
}

// Update returns the new text of the files whose expect blocks differ from the
// events that were made: what a block says is corrected, a block of an event
// that was not made goes, and one of an event that nothing expected is added.
// Comments stay, but for those inside an object that gets other attributes. A
// rule that fails is no result to be kept: fails blocks are left alone.
func (t *Tests) Update(results []*TestResult) map[string][]byte {
	edits := map[string][]edit{}
	for _, r := range results {
		edits[r.Test.File] = append(edits[r.Test.File], r.edits(t.files.files[r.Test.File].Bytes)...)
	}
	out := map[string][]byte{}
	for name, list := range edits {
		if len(list) > 0 {
			out[name] = hclwrite.Format(apply(t.files.files[name].Bytes, list))
		}
	}
	return out
}

// apply makes edits that do not overlap.
func apply(src []byte, edits []edit) []byte {
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	var out []byte
	at := 0
	for _, e := range edits {
		out = append(append(out, src[at:e.from]...), e.text...)
		at = e.to
	}
	return append(out, src[at:]...)
}

func (r *TestResult) edits(src []byte) []edit {
	var edits []edit
	want := r.Test.events
	after := -1 // the expect block behind which a new one comes
	for n, p := range r.pairs {
		switch {
		case p.got < 0:
			edits = append(edits, removed(src, want[p.want].block))
			after = p.want
		case p.want >= 0:
			edits = append(edits, want[p.want].correct(&r.events[p.got])...)
			after = p.want
		default:
			text := expectText(&r.events[p.got])
			next := slices.IndexFunc(r.pairs[n:], func(p pairing) bool { return p.want >= 0 })
			switch {
			case after >= 0:
				at := want[after].block.End.Byte
				edits = append(edits, edit{at, at, "\n\n" + text})
			case next >= 0:
				at := want[r.pairs[n+next].want].block.Start.Byte
				edits = append(edits, edit{at, at, strings.TrimLeft(text, " ") + "\n\n  "})
			default:
				at := r.Test.at.End.Byte - 1 // the closing brace
				edits = append(edits, edit{at, at, "\n" + text + "\n"})
			}
		}
	}
	return edits
}

// correct returns what makes the block say what the event is.
func (x *expectedEvent) correct(e *madeEvent) []edit {
	var edits []edit
	for name, s := range x.args {
		if s.val == nil {
			continue
		}
		switch got := e.field(name); name {
		case "rule", "version":
		case "data", "includes":
			if name == "includes" {
				got = prune(s.val.(constant), got)
			}
			edits = append(edits, correctData(s.expr, s.val.(constant), got)...)
		default:
			if !sameText(wanted(s.val), got) {
				edits = append(edits, replaced(s.expr.Range(), got))
			}
		}
	}
	return edits
}

// correctData corrects the attributes of an object one by one, as long as it
// keeps its attributes, so that what is right stays as it was written.
func correctData(expr hclsyntax.Expression, want, got constant) []edit {
	if sameValue(want, got, false) {
		return nil
	}
	object, ok := expr.(*hclsyntax.ObjectConsExpr)
	if !ok || want.kind != objectConst || len(object.Items) != len(want.items) || !sameAttributes(want, got) {
		return []edit{replaced(expr.Range(), got)}
	}
	var edits []edit
	for i, item := range object.Items {
		is, _ := got.attribute(want.keys[i].text)
		edits = append(edits, correctData(item.ValueExpr, want.items[i], is)...)
	}
	return edits
}

func sameAttributes(a, b constant) bool {
	names := func(v constant) []string {
		var out []string
		for _, k := range v.keys {
			out = append(out, k.text)
		}
		slices.Sort(out)
		return out
	}
	return b.kind == objectConst && slices.Equal(names(a), names(b))
}

// removed takes a block away with its lines, and with the empty line before it.
func removed(src []byte, at hcl.Range) edit {
	e := edit{from: at.Start.Byte, to: at.End.Byte}
	for e.from > 0 && (src[e.from-1] == ' ' || src[e.from-1] == '\t') {
		e.from--
	}
	if e.to < len(src) && src[e.to] == '\n' {
		e.to++
		if e.from > 1 && src[e.from-1] == '\n' && src[e.from-2] == '\n' {
			e.from--
		}
	}
	return e
}

func replaced(at hcl.Range, v constant) edit {
	return edit{at.Start.Byte, at.End.Byte, hclText(v, "")}
}

// expectText writes an expect block.
func expectText(e *madeEvent) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  expect %s {\n", quoteHCL(e.Type))
	if e.Version != 1 {
		fmt.Fprintf(&b, "version = %d\n", e.Version)
	}
	for _, field := range []string{"key", "old_key", "tenant"} {
		if v := e.field(field); v.kind != nullConst {
			fmt.Fprintf(&b, "%s = %s\n", field, hclText(v, ""))
		}
	}
	if len(e.Unchanged) > 0 {
		fmt.Fprintf(&b, "unchanged = %s\n", hclText(e.field("unchanged"), ""))
	}
	fmt.Fprintf(&b, "data = %s\n  }", hclText(e.data, ""))
	return b.String()
}
