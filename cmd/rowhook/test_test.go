package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"testing"
)

func TestTest_Script(t *testing.T) {
	dir := copyFolder(t, "test")
	play(t, "testdata/test.txt", dir, ruleProgram(""), &fake{})
	// The report that the script has written.
	text, err := os.ReadFile(filepath.Join(dir, "report.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var report junitSuites
	if err := xml.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	if report.Tests != 2 || report.Failures != 2 || len(report.Suites) != 1 || len(report.Suites[0].Cases) != 2 || report.Suites[0].Cases[1].Failure == nil {
		t.Errorf("the report is\n%s", text)
	}
}
