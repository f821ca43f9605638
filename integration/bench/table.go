package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// metric is a row of the table. A target is checked against Rowhook's value and the yardstick's.
type metric struct {
	name, unit string
	target     string // as people read it; empty: none
	met        func(value, yardstick float64) bool
}

const mostDrain, mostLarge, mostIdle = 64, 96, 30 // MiB

var metrics = []metric{
	{"drain_rate", "events/s", ">= 0.8 x bare", func(v, y float64) bool { return v >= 0.8*y }},
	{"drain_cpu", "s per million events", "<= 1.6 x bare", func(v, y float64) bool { return v <= 1.6*y }},
	{"drain_peak_rss", "MiB", "<= 64", func(v, _ float64) bool { return v <= mostDrain }},
	{"drain_idle_after_rss", "MiB", "", nil},
	{"live_p50", "ms at 500/s", "<= bare + 1", func(v, y float64) bool { return v <= y+1 }},
	{"live_p99", "ms at 500/s", "<= 3 x bare", func(v, y float64) bool { return v <= 3*y }},
	{"slow_rate", "events/s at 10 ms", ">= 4500", func(v, _ float64) bool { return v >= 4500 }},
	{"large_peak_rss", "MiB", "<= 96", func(v, _ float64) bool { return v <= mostLarge }},
	{"large_first_event", "s", "", nil},
	{"large_all_events", "s", "", nil},
	{"backfill_rate", "rows/s beside events/s of the log", ">= 0.5 x the log's own appends", func(v, y float64) bool { return v >= 0.5*y }},
	{"backfill_peak_rss", "MiB", "", nil},
	{"idle_rss", "MiB", "<= 30", func(v, _ float64) bool { return v <= mostIdle }},
	{"huge_peak_rss", "MiB", "<= 96", func(v, _ float64) bool { return v <= mostLarge }},
	{"huge_all_events", "s", "", nil},
	{"rule_miss_time", "ns", "<= 3 x by hand", ratio(3)},
	{"rule_miss_allocs", "a change", "0", most(0)},
	{"rule_hit_time", "ns", "<= 3 x by hand", ratio(3)},
	{"rule_hit_allocs", "a change", "<= 2", most(2)},
	{"rules_1000_tables_time", "ns", "<= 1.1 x one rule", ratio(1.1)},
	{"rules_999_beside_time", "ns", "<= 1.1 x one rule", ratio(1.1)},
	{"rules_20_on_one_table_time", "ns", "<= 8 x one rule", ratio(8)},
	{"rules_none_on_the_table_time", "ns, bare: a map look-up", "", nil},
	{"decode_6_columns_time", "ns", "<= 1/5 of pglogrepl", ratio(0.2)},
	{"decode_6_columns_allocs", "a row", "<= 2", most(2)},
	{"decode_40_columns_time", "ns", "<= 1/5 of pglogrepl", ratio(0.2)},
	{"decode_40_columns_allocs", "a row", "<= 2", most(2)},
}

// ratio is a target of so many times the yardstick, most one of the value alone.
func ratio(n float64) func(v, y float64) bool { return func(v, y float64) bool { return v <= n*y } }
func most(n float64) func(v, y float64) bool  { return func(v, _ float64) bool { return v <= n } }

// row is what --json writes. Yardstick and ratio are null when bare was not measured, and value
// is null when only bare was.
type row struct {
	Name      string   `json:"name"`
	Value     *float64 `json:"value"`
	Unit      string   `json:"unit"`
	Yardstick *float64 `json:"yardstick"`
	Ratio     *float64 `json:"ratio"`
}

// rows takes the median of each metric over the rounds.
func rows(measured results) []row {
	var out []row
	for _, m := range metrics {
		r := row{Name: m.name, Unit: m.unit, Value: median(measured[m.name]["rowhook"]), Yardstick: median(measured[m.name]["bare"])}
		if r.Value == nil && r.Yardstick == nil {
			continue
		}
		if r.Value != nil && r.Yardstick != nil && *r.Yardstick > 0 {
			ratio := *r.Value / *r.Yardstick
			r.Ratio = &ratio
		}
		out = append(out, r)
	}
	return out
}

func median(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	values = slices.Sorted(slices.Values(values))
	mid := values[len(values)/2]
	if len(values)%2 == 0 {
		mid = (mid + values[len(values)/2-1]) / 2
	}
	return &mid
}

func printTable(w io.Writer, out []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "name\trowhook\tunit\tbare\tratio\ttarget\t")
	for _, r := range out {
		m := metrics[slices.IndexFunc(metrics, func(m metric) bool { return m.name == r.Name })]
		verdict := ""
		if m.met != nil && r.Value != nil && r.Yardstick != nil {
			verdict = map[bool]string{true: "ok", false: "MISS"}[m.met(*r.Value, *r.Yardstick)]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, number(r.Value), r.Unit, number(r.Yardstick), number(r.Ratio), m.target, verdict)
	}
	_ = t.Flush()
}

func number(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 1000:
		return fmt.Sprintf("%.0f", *v)
	case *v >= 10:
		return fmt.Sprintf("%.1f", *v)
	default:
		return fmt.Sprintf("%.2f", *v)
	}
}

func writeJSON(file string, out []row) error {
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
