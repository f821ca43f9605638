package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// micro is a benchmark of a package, "go test -bench": what a cluster and a receiver would only add
// noise to. Its benchmarks are pairs, NAME/rowhook and NAME/bare.
type micro struct {
	name, pkg, bench string
	metrics          map[string]string // NAME -> metric, which gets _time and, where the table has it, _allocs
}

var micros = []micro{
	{"rules", "./config", "^BenchmarkRules?$", map[string]string{
		"BenchmarkRule/miss": "rule_miss", "BenchmarkRule/hit": "rule_hit",
		"BenchmarkRules/1000_tables": "rules_1000_tables", "BenchmarkRules/999_beside": "rules_999_beside",
		"BenchmarkRules/20_on_one_table": "rules_20_on_one_table", "BenchmarkRules/none_on_the_table": "rules_none_on_the_table",
	}},
	{"decode", "./cdc", "^BenchmarkDecode$", map[string]string{"BenchmarkDecode/6": "decode_6_columns", "BenchmarkDecode/40": "decode_40_columns"}},
}

// Each benchmark is measured many times for a short while, in several turns, and the least time of
// all counts: what disturbs a measurement on this scale makes it longer.
const microTurns, microCount = 3, "12"

func (m *micro) run(ctx context.Context, into results) error {
	least := map[string]map[string]float64{}
	for range microTurns {
		cmd := exec.CommandContext(ctx, "go", "test", m.pkg, "-run", "^$", "-bench", m.bench, "-benchtime", "10ms", "-count", microCount)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("go test -bench %s %s: %w\n%s", m.bench, m.pkg, err, out)
		}
		found := map[string]bool{}
		for line := range bytes.Lines(out) {
			metric, side, v, ok := m.parse(string(line))
			if !ok {
				continue
			}
			found[metric+side] = true
			for unit, value := range v {
				name := metric + unit
				if least[name] == nil {
					least[name] = map[string]float64{}
				}
				if old, known := least[name][side]; !known || value < old {
					least[name][side] = value
				}
			}
		}
		if len(found) != 2*len(m.metrics) {
			return fmt.Errorf("go test -bench %s %s has %d results, want %d:\n%s", m.bench, m.pkg, len(found), 2*len(m.metrics), out)
		}
	}
	for metric, sides := range least {
		if into[metric] == nil {
			into[metric] = map[string][]float64{}
		}
		for side, v := range sides {
			into[metric][side] = append(into[metric][side], v)
		}
	}
	return nil
}

// parse reads a line such as "BenchmarkRule/miss/rowhook-2  10896987  51.65 ns/op  0 B/op  0 allocs/op".
func (m *micro) parse(line string) (metric, side string, v map[string]float64, ok bool) {
	words := strings.Fields(line)
	if len(words) < 4 {
		return "", "", nil, false
	}
	slash := strings.LastIndexByte(words[0], '/')
	if slash < 0 {
		return "", "", nil, false
	}
	side, _, _ = strings.Cut(words[0][slash+1:], "-")
	if metric, ok = m.metrics[words[0][:slash]]; !ok {
		return "", "", nil, false
	}
	v = map[string]float64{}
	for i := 2; i+1 < len(words); i += 2 {
		n, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			return "", "", nil, false
		}
		switch words[i+1] {
		case "ns/op":
			v["_time"] = n
		case "allocs/op":
			v["_allocs"] = n
		}
	}
	return metric, side, v, true
}
