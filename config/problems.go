package config

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
)

// Diagnostics are mistakes in files, for commands to print with [Files.Write].
type Diagnostics = hcl.Diagnostics

// problems collects diagnostics. A summary is a constant text; the detail says
// what is wrong here and what to write instead, and holds no secret.
type problems struct{ list hcl.Diagnostics }

func (p *problems) errorf(at hcl.Range, summary, format string, args ...any) {
	p.add(hcl.DiagError, at, summary, format, args)
}

func (p *problems) warnf(at hcl.Range, summary, format string, args ...any) {
	p.add(hcl.DiagWarning, at, summary, format, args)
}

func (p *problems) add(sev hcl.DiagnosticSeverity, at hcl.Range, summary, format string, args []any) {
	d := &hcl.Diagnostic{Severity: sev, Summary: summary, Detail: fmt.Sprintf(format, args...)}
	if at.Filename != "" {
		d.Subject = &at
	}
	p.list = append(p.list, d)
}

// sorted returns the diagnostics in the order of the files' text; those
// without a place come first.
func (p *problems) sorted() hcl.Diagnostics {
	for _, d := range p.list {
		// Where the parser lost its place it makes ranges that end before they
		// begin, which nothing can print.
		if r := d.Subject; r != nil && r.End.Byte < r.Start.Byte {
			d.Subject, d.Context = &hcl.Range{Filename: r.Filename, Start: r.Start, End: r.Start}, nil
		}
		if r := d.Context; r != nil && r.End.Byte < r.Start.Byte {
			d.Context = nil
		}
	}
	slices.SortStableFunc(p.list, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return cmp.Compare(btoi(a.Subject != nil), btoi(b.Subject != nil))
		}
		return cmp.Or(cmp.Compare(a.Subject.Filename, b.Subject.Filename), cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte))
	})
	return p.list
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// place names a range in a sentence.
func place(r hcl.Range) string { return fmt.Sprintf("%s, line %d", r.Filename, r.Start.Line) }
