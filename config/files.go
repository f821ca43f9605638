package config

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Files are the files a configuration was read from. They print diagnostics
// with the lines they are about.
type Files struct {
	files map[string]*hcl.File
	order []string
	// incomplete: a file could not be read or parsed as a whole. What is missing
	// may be in the part that is not known.
	incomplete bool

	mu      sync.Mutex
	blotted map[string][]byte // the texts without secrets, as far as they were asked for
}

// Names returns the names of the files, in the order they were read.
func (f *Files) Names() []string { return f.order }

// maxFile bounds a file, so that one given by mistake is not read whole.
const maxFile = 4 << 20

// baseOf returns the folder of a configuration, where its data is by default.
func baseOf(paths []string) string {
	if len(paths) == 0 {
		return "."
	}
	if info, err := os.Stat(paths[0]); err == nil && info.IsDir() {
		return paths[0]
	}
	return filepath.Dir(paths[0])
}

// readFiles reads and parses all files the paths name.
func readFiles(p *problems, paths []string) *Files {
	f := &Files{files: map[string]*hcl.File{}}
	if len(paths) == 0 {
		p.errorf(hcl.Range{}, "No configuration", "Name a file or a folder with *.hcl files.")
	}
	var known []fs.FileInfo // a file named twice is read once
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			f.incomplete = true
			p.unreadable(path, err)
		case info.IsDir():
			names, ok := inFolder(p, path, func(name string) bool { return !isTestFile(name) })
			if ok && len(names) == 0 {
				p.errorf(hcl.Range{}, "No configuration", "The folder %s has no *.hcl file. Folders inside it are not read.", path)
			}
			for _, name := range names {
				f.read(p, name, &known)
			}
		default:
			f.read(p, path, &known)
		}
	}
	return f
}

// isTestFile reports whether a file holds tests of rules: no command reads it
// as a part of the configuration.
func isTestFile(name string) bool { return strings.HasSuffix(name, ".test.hcl") }

// inFolder lists the HCL files of a folder that are wanted, sorted by name. It
// returns false when it has reported that the folder cannot be read.
func inFolder(p *problems, folder string, want func(name string) bool) (names []string, ok bool) {
	entries, err := os.ReadDir(folder) // sorted by name
	if err != nil {
		p.unreadable(folder, err)
		return nil, false
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() && strings.HasSuffix(name, ".hcl") && !strings.HasPrefix(name, ".") && want(name) {
			names = append(names, filepath.Join(folder, name))
		}
	}
	return names, true
}

func (p *problems) unreadable(path string, err error) {
	cause := err
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		cause = pathErr.Err
	}
	p.errorf(hcl.Range{}, "Configuration cannot be read", "%s: %s.", path, cause)
}

func (f *Files) read(p *problems, name string, known *[]fs.FileInfo) {
	file, err := os.Open(name)
	if err != nil {
		f.incomplete = true
		p.unreadable(name, err)
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		f.incomplete = true
		p.unreadable(name, err)
		return
	}
	for _, k := range *known {
		if os.SameFile(k, info) {
			return
		}
	}
	*known = append(*known, info)
	src, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		f.incomplete = true
		p.unreadable(name, err)
		return
	}
	f.parse(p, name, src)
}

func (f *Files) parse(p *problems, name string, src []byte) {
	if len(src) > maxFile {
		f.incomplete = true
		p.errorf(hcl.Range{}, "File is too large", "%s is larger than 4 MiB. Is it a configuration? If so, divide it into several files.", name)
		return
	}
	if at, deep := tooDeep(name, src); deep {
		f.files[name] = &hcl.File{Bytes: src, Body: &hclsyntax.Body{}}
		f.incomplete = true
		p.errorf(at, "Nested too deeply", "An expression has at most 100 levels, and a block at most 5,000 operators and brackets. Divide it, with the help of locals.")
		return
	}
	file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if at, unclosed := unclosedQuote(src, diags); unclosed {
		diags = beforeQuote(file, diags, at)
	}
	f.files[name] = file
	f.order = append(f.order, name)
	p.list = append(p.list, diags...)
	f.incomplete = f.incomplete || diags.HasErrors()
}

// unclosedQuote returns the quote that is not closed on its line, and so turns
// the meaning of every quote after it around.
func unclosedQuote(src []byte, diags hcl.Diagnostics) (hcl.Range, bool) {
	for _, d := range diags {
		if d.Summary != "Invalid multi-line string" || d.Subject == nil {
			continue
		}
		at := *d.Subject
		from := bytes.LastIndexByte(src[:at.Start.Byte], '\n') + 1
		line, _, _ := bytes.Cut(src[from:], []byte("\n"))
		quote := bytes.LastIndexByte(line, '"')
		if quote < 0 {
			return at, true
		}
		at.Start = hcl.Pos{Line: at.Start.Line, Column: utf8.RuneCount(line[:quote]) + 1, Byte: from + quote}
		at.End = hcl.Pos{Line: at.Start.Line, Column: utf8.RuneCount(line) + 1, Byte: from + len(line)}
		return at, true
	}
	return hcl.Range{}, false
}

// beforeQuote leaves of a file what stands before a quote that is not closed:
// what comes after it would be reported as mistakes that are none.
func beforeQuote(file *hcl.File, diags hcl.Diagnostics, quote hcl.Range) hcl.Diagnostics {
	if body, ok := file.Body.(*hclsyntax.Body); ok {
		body.Blocks = slices.DeleteFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Range().End.Byte > quote.Start.Byte })
		for name, attr := range body.Attributes {
			if attr.SrcRange.End.Byte > quote.Start.Byte {
				delete(body.Attributes, name)
			}
		}
	}
	// A bracket that is left open in a string hides its closing quote.
	for _, d := range diags {
		if d.Summary == "Unclosed template interpolation sequence" && d.Subject != nil && d.Subject.Start.Line == quote.Start.Line {
			return hcl.Diagnostics{d}
		}
	}
	kept := slices.DeleteFunc(diags, func(d *hcl.Diagnostic) bool {
		return d.Subject == nil || d.Subject.End.Byte > quote.Start.Byte
	})
	return append(kept, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Quote is not closed", Subject: &quote,
		Detail: "The string that begins here has no closing quote on its line. Add it; what comes after it is judged then.",
	})
}

// tooDeep reports where a file is nested so deeply that parsing it could use
// up the stack, which nothing recovers from. HCL has no bound of its own.
func tooDeep(name string, src []byte) (hcl.Range, bool) {
	const maxDepth, maxOperators = 100, 5_000
	tokens, _ := hclsyntax.LexConfig(src, name, hcl.InitialPos) // the parser reports what the scanner finds
	depth, operators := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
			operators++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			depth = max(depth-1, 0)
			if depth == 0 {
				operators = 0
			}
		case hclsyntax.TokenIdent, hclsyntax.TokenNumberLit, hclsyntax.TokenComma, hclsyntax.TokenNewline, hclsyntax.TokenComment,
			hclsyntax.TokenDot,
			hclsyntax.TokenOQuote, hclsyntax.TokenCQuote, hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit, hclsyntax.TokenEqual:
		default:
			operators++
		}
		if depth > maxDepth || operators > maxOperators {
			return t.Range, true
		}
	}
	return hcl.Range{}, false
}
