package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// compareEvents holds the events against the expect blocks. Which block is
// about which event is found by their types, so that one event too many does
// not make all others wrong.
func (r *TestResult) compareEvents() {
	want, got := r.Test.events, r.events
	fits := func(i, j int) bool {
		x, e := want[i], &got[j]
		rule := get[settingText](x.body, "rule").s
		version := get[int](x.body, "version")
		return x.typ == e.Type && (rule == "" || rule == e.Rule) && (version == 0 || version == e.Version)
	}
	r.pairs = align(len(want), len(got), fits)
	for _, p := range r.pairs {
		switch {
		case p.got < 0:
			r.problemf(want[p.want].at.Start.Line, "event %s is not made", want[p.want].typ)
		case p.want < 0:
			e := &got[p.got]
			problem := r.problemf(r.Test.Line, "event %s, made by rule %s, is not expected", e.Type, e.Rule)
			problem.Want, problem.Got = []string{}, dataLines(e.data)
		default:
			r.compare(want[p.want], &got[p.got])
		}
	}
}

// align pairs two series in order: as many pairs as possible that fit.
func align(want, got int, fits func(i, j int) bool) []pairing {
	best := make([][]int, want+1) // pairs among want[i:] and got[j:]
	for i := range best {
		best[i] = make([]int, got+1)
	}
	for i := want - 1; i >= 0; i-- {
		for j := got - 1; j >= 0; j-- {
			best[i][j] = max(best[i+1][j], best[i][j+1])
			if fits(i, j) {
				best[i][j] = max(best[i][j], best[i+1][j+1]+1)
			}
		}
	}
	var out []pairing
	i, j := 0, 0
	for i < want || j < got {
		switch {
		case i < want && j < got && fits(i, j) && best[i][j] == best[i+1][j+1]+1:
			out = append(out, pairing{i, j})
			i, j = i+1, j+1
		case j == got || i < want && best[i+1][j] >= best[i][j+1]:
			out = append(out, pairing{i, -1})
			i++
		default:
			out = append(out, pairing{-1, j})
			j++
		}
	}
	return out
}

// compare holds one event against its expect block.
func (r *TestResult) compare(x *expectedEvent, e *madeEvent) {
	for _, field := range []string{"op", "table", "key", "old_key", "tenant", "unchanged"} {
		s := x.arg(field)
		if s == nil || s.val == nil {
			continue
		}
		want, got := wanted(s.val), e.field(field)
		if !sameText(want, got) {
			r.problemf(s.name.Start.Line, "event %s: %s is %s, not %s", e.Type, field, hclText(got, ""), hclText(want, ""))
		}
	}
	for _, field := range []string{"data", "includes"} {
		s := x.arg(field)
		if s == nil || s.val == nil {
			continue
		}
		want, got, what := s.val.(constant), e.data, "data differs"
		if sameValue(want, got, field == "includes") {
			continue
		}
		if field == "includes" {
			got, what = prune(want, got), "data does not have what includes says"
		}
		problem := r.problemf(s.name.Start.Line, "event %s: %s", e.Type, what)
		problem.Want, problem.Got = dataLines(like(want, got)), dataLines(got)
	}
}

// wanted returns an expectation as a value.
func wanted(val any) constant {
	switch v := val.(type) {
	case constant:
		return v
	case settingText:
		return constant{kind: textConst, text: v.s}
	case []settingText:
		list := constant{kind: listConst}
		for _, s := range v {
			list.items = append(list.items, wanted(s))
		}
		return list
	}
	panic(fmt.Sprintf("config: no expectation is a %T", val))
}

// sameText compares fields that are text whatever is written: the key 42 is
// "42".
func sameText(want, got constant) bool {
	if want.kind == numberConst || want.kind == boolConst {
		want = constant{kind: textConst, text: string(appendJSON(nil, want))}
	}
	if want.kind == listConst {
		less := func(a, b constant) int { return strings.Compare(a.text, b.text) }
		want.items, got.items = slices.SortedFunc(slices.Values(want.items), less), slices.SortedFunc(slices.Values(got.items), less)
	}
	return sameValue(want, got, false)
}

// field returns what an expect block may say of an event, as a value.
func (e *madeEvent) field(name string) constant {
	text := func(b []byte) constant {
		if b == nil {
			return constant{}
		}
		return constant{kind: textConst, text: string(b)}
	}
	switch name {
	case "op":
		return text([]byte(e.Op.String()))
	case "table":
		return text([]byte(e.Table))
	case "key":
		if !e.HasKey {
			return constant{}
		}
		return text(e.Key)
	case "old_key":
		return text(e.OldKey)
	case "tenant":
		return text(e.Tenant)
	case "unchanged":
		list := constant{kind: listConst}
		for _, c := range e.Unchanged {
			list.items = append(list.items, constant{kind: textConst, text: c})
		}
		return list
	case "version":
		return constant{kind: numberConst, text: strconv.Itoa(e.Version)}
	}
	return e.data
}

func dataLines(v constant) []string { return strings.Split(hclText(v, ""), "\n") }
