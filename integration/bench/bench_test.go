package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestRowID_IsTheRowsNotTheEvents(t *testing.T) {
	for body, want := range map[string]int64{
		`{"id":"evt_1","type":"row.created","data":{"id":123,"note":"x"}}`:   123,
		`{"id":77,"key":{"id":5},"data":{"kind":"a","id":9},"sequence":"1"}`: 9,
		`{"id":77}`:         -1,
		`{"data":{"no":1}}`: -1,
		``:                  -1,
	} {
		if got := rowID([]byte(body)); got != want {
			t.Errorf("rowID(%s) = %d, want %d", body, got, want)
		}
	}
}

func TestRows_AreMediansWithTheirRatio(t *testing.T) {
	out := rows(results{
		"drain_rate": {"rowhook": {10, 40, 20}, "bare": {10, 20}},
		"live_p50":   {"bare": {1}},
	})
	if len(out) != 2 || *out[0].Value != 20 || *out[0].Yardstick != 15 || *out[0].Ratio != 20.0/15 {
		t.Errorf("rows: %+v", out)
	}
	if out[1].Value != nil || out[1].Ratio != nil {
		t.Errorf("a metric of bare alone has a value or a ratio: %+v", out[1])
	}
}

func TestBare_ImportsNothingOfOurs(t *testing.T) {
	deps, err := exec.Command("go", "list", "-deps", "./bare").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(deps)) {
		if strings.HasPrefix(dep, "github.com/rowhook/") && !strings.HasSuffix(dep, "/integration/bench/bare") {
			t.Errorf("bare imports %s", dep)
		}
	}
}

func TestMicro_ReadsWhatGoTestPrints(t *testing.T) {
	m := &micros[0]
	name, side, v, ok := m.parse("BenchmarkRule/miss/rowhook-2         \t10896987\t        51.65 ns/op\t       0 B/op\t       0 allocs/op\n")
	if !ok || name != "rule_miss" || side != "rowhook" || v["_time"] != 51.65 || v["_allocs"] != 0 || len(v) != 2 {
		t.Errorf("%v %s %s %v", ok, name, side, v)
	}
	for _, line := range []string{"PASS", "BenchmarkOther/x/rowhook-2 1 2 ns/op", "BenchmarkRule/miss/rowhook-2", ""} {
		if _, _, _, ok := m.parse(line); ok {
			t.Errorf("%q is taken for a result", line)
		}
	}
	for _, m := range micros { // every result is in the table
		for _, name := range m.metrics {
			if !slices.ContainsFunc(metrics, func(x metric) bool { return x.name == name+"_time" }) {
				t.Errorf("the table has no row %s_time", name)
			}
		}
	}
}
