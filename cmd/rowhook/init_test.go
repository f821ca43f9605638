package main

import "testing"

func TestInit_Script(t *testing.T) {
	p := ruleProgram("")
	p.check = p.checkConfig
	play(t, "testdata/init.txt", t.TempDir(), p, &fake{})
}
