package main

import (
	"fmt"
	"io"
	"strings"
)

// diffLine is a line of a comparison: ' ' in both, '-' only in the first, '+'
// only in the second. line is its number in the second text, or where it would
// be there, from 1.
type diffLine struct {
	kind byte
	text string
	line int
}

// diffLines compares two texts line by line (by their longest common
// subsequence, so for texts of a few thousand lines that differ).
func diffLines(a, b []string) []diffLine {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var out []diffLine
	line := 1
	add := func(kind byte, text string) {
		out = append(out, diffLine{kind, text, line})
		if kind != '-' {
			line++
		}
	}
	for _, s := range a[:head] {
		add(' ', s)
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	// common[i][j] is the length of the longest common subsequence of x[i:] and
	// y[j:].
	common := make([][]int32, len(x)+1)
	for i := range common {
		common[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			add(' ', x[i])
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && common[i+1][j] >= common[i][j+1]:
			add('-', x[i])
			i++
		default:
			add('+', y[j])
			j++
		}
	}
	for _, s := range a[len(a)-tail:] {
		add(' ', s)
	}
	return out
}

// colors of a comparison in a terminal.
const (
	colorRed   = "\x1b[31m"
	colorGreen = "\x1b[32m"
	colorDim   = "\x1b[2m"
	colorBold  = "\x1b[1m"
	colorOff   = "\x1b[0m"
)

// paint returns s in a colour where colours are welcome.
func paint(color bool, code, s string) string {
	if !color {
		return s
	}
	return code + s + colorOff
}

// writeDiff prints the lines that differ, with so many lines around them, each
// after the indent. The lines are printed as they may be in a terminal.
func writeDiff(w io.Writer, lines []diffLine, around int, indent string, color bool) {
	last := -1 // the last line printed
	for i := range lines {
		near := false
		for k := max(0, i-around); k <= min(len(lines)-1, i+around); k++ {
			near = near || lines[k].kind != ' '
		}
		if !near {
			continue
		}
		if i > last+1 {
			fmt.Fprintln(w, indent+paint(color, colorDim, fmt.Sprintf("@@ line %d", lines[i].line)))
		}
		last = i
		text := string(lines[i].kind) + " " + printable(lines[i].text)
		switch lines[i].kind {
		case '-':
			text = paint(color, colorRed, text)
		case '+':
			text = paint(color, colorGreen, text)
		}
		fmt.Fprintln(w, indent+strings.TrimRight(text, " "))
	}
}
