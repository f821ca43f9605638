package main

import (
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/rowhook/rowhook/config"
)

// testReport is a run of tests for programs.
type testReport struct {
	Passed   int          `json:"passed"`
	Failed   int          `json:"failed"`
	Seconds  float64      `json:"seconds"`
	Tests    []testJSON   `json:"tests"`
	Coverage coverageJSON `json:"coverage"`
}

type testJSON struct {
	Name     string        `json:"name"`
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Passed   bool          `json:"passed"`
	Seconds  float64       `json:"seconds"`
	Problems []problemJSON `json:"problems,omitempty"`
}

// problemJSON is one difference; the data, where it is about data, as lines of
// HCL.
type problemJSON struct {
	Line     int      `json:"line"`
	Summary  string   `json:"summary"`
	Expected []string `json:"expected,omitempty"`
	Made     []string `json:"made,omitempty"`
}

type coverageJSON struct {
	Percent  float64            `json:"percent"`
	Seen     int                `json:"seen"`
	Outcomes int                `json:"outcomes"`
	Rules    []ruleCoverageJSON `json:"rules"`
}

type ruleCoverageJSON struct {
	Rule    string `json:"rule"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Matched bool   `json:"matched"`
	// DidNotMatch is null for a rule without a condition.
	DidNotMatch *bool `json:"did_not_match"`
}

func (r *testRun) json() *testReport {
	out := &testReport{Failed: r.failed(), Seconds: r.took.Seconds()}
	out.Passed = len(r.results) - out.Failed
	for i, result := range r.results {
		t := testJSON{Name: result.Test.Name, File: result.Test.File, Line: result.Test.Line, Passed: len(result.Problems) == 0, Seconds: r.times[i].Seconds()}
		for _, p := range result.Problems {
			t.Problems = append(t.Problems, problemJSON{p.Line, p.Summary, p.Want, p.Got})
		}
		out.Tests = append(out.Tests, t)
	}
	c := &out.Coverage
	c.Percent = r.covered()
	c.Seen, c.Outcomes = r.outcomes()
	for _, rule := range r.coverage {
		j := ruleCoverageJSON{Rule: rule.Rule, File: rule.File, Line: rule.Line, Matched: rule.Matched}
		if rule.Conditional {
			j.DidNotMatch = &rule.Missed
		}
		c.Rules = append(c.Rules, j)
	}
	return out
}

// The report that CI systems read: a suite a file.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
		seconds  float64
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func (r *testRun) junit() ([]byte, error) {
	seconds := func(s float64) string { return fmt.Sprintf("%.6f", s) }
	out := junitSuites{Tests: len(r.results), Failures: r.failed(), Time: seconds(r.took.Seconds())}
	for i, result := range r.results {
		t := result.Test
		if n := len(out.Suites); n == 0 || out.Suites[n-1].Name != t.File {
			out.Suites = append(out.Suites, junitSuite{Name: t.File})
		}
		suite := &out.Suites[len(out.Suites)-1]
		c := junitCase{Name: t.Name, Class: t.File, File: t.File, Line: t.Line, Time: seconds(r.times[i].Seconds())}
		suite.Tests++
		suite.seconds += r.times[i].Seconds()
		suite.Time = seconds(suite.seconds)
		if len(result.Problems) > 0 {
			suite.Failures++
			c.Failure = &junitFailure{Message: result.Problems[0].Summary, Text: problemText(result)}
		}
		suite.Cases = append(suite.Cases, c)
	}
	text, err := xml.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, err
	}
	return []byte(xml.Header + string(text) + "\n"), nil
}

// problemText is what a terminal would show of a failed test.
func problemText(r *config.TestResult) string {
	var b strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "%s:%d: %s\n", r.Test.File, p.Line, p.Summary)
		writeDiff(&b, diffLines(p.Want, p.Got), 3, "  ", false)
	}
	return b.String()
}
