package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/relay"
)

// Tests are the tests of a configuration's rules, ready to be run. A test
// passes its changes through what the daemon passes them through: the compiled
// rules and a relay.Ingest, whose log is in memory.
type Tests struct {
	List []*RuleTest

	sets  map[string]*relay.RuleSet // by source; their counters are the coverage
	rules []*rule
	files *Files
}

// RuleTest is one test block.
type RuleTest struct {
	Name string
	// File and Line say where it stands.
	File string
	Line int

	source  string
	changes []*relay.Change
	tx      relay.Tx
	events  []*expectedEvent
	fails   []*expectedFailure
	at      hcl.Range // of the whole block
}

// expectedEvent is an expect block.
type expectedEvent struct {
	*body
	typ   string
	block hcl.Range // of the whole block
}

// expectedFailure is a fails block.
type expectedFailure struct {
	rule, message string
	at            hcl.Range
}

// LoadTests reads the test files the paths name: a file as it is, of a folder
// every *.test.hcl in it. catalogs are the saved catalogues by the name of
// their source. A table that is in none has the columns that the rows of a
// file name, with the types of their literals, a primary key when there is a
// column id, and REPLICA IDENTITY FULL.
//
// When there is an error among the diagnostics the Tests are nil.
func LoadTests(cfg *Config, catalogs map[string]*relay.Catalog, paths []string) (*Tests, *Files, hcl.Diagnostics) {
	p := &problems{}
	return loadTests(p, readTestFiles(p, paths), cfg, catalogs)
}

func loadTests(p *problems, files *Files, cfg *Config, catalogs map[string]*relay.Catalog) (*Tests, *Files, hcl.Diagnostics) {
	t := &Tests{sets: map[string]*relay.RuleSet{}, rules: cfg.rules, files: files}
	for i := range cfg.Sources {
		name := cfg.Sources[i].Name
		t.sets[name] = relay.NewRuleSet(name, cfg.Rules)
	}
	for _, name := range files.order {
		file, ok := files.files[name].Body.(*hclsyntax.Body)
		if !ok {
			continue
		}
		l := &testLoader{
			evaluator: &evaluator{problems: p, opts: testSurroundings, files: files, locals: &locals{byName: map[string]*local{}}},
			cfg:       cfg, catalogs: catalogs, relations: map[sourceTable]*testRelation{},
		}
		t.List = append(t.List, l.load(file)...)
	}
	diags := p.sorted()
	if diags.HasErrors() {
		return nil, files, diags
	}
	return t, files, diags
}

// testSurroundings are those of a test: none. What env() and file() give is
// refused.
var testSurroundings = &Options{
	Getenv:   func(string) (string, bool) { return "", false },
	ReadFile: func(string) ([]byte, error) { return nil, os.ErrNotExist },
}

func readTestFiles(p *problems, paths []string) *Files {
	f := &Files{files: map[string]*hcl.File{}}
	var known []os.FileInfo
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			p.unreadable(path, err)
		case info.IsDir():
			names, _ := inFolder(p, path, isTestFile)
			for _, name := range names {
				f.read(p, name, &known)
			}
		default:
			f.read(p, path, &known)
		}
	}
	return f
}

// TestFolders returns the folders in which the tests of a configuration are:
// those of its files.
func TestFolders(paths []string) []string {
	var folders []string
	for _, path := range paths {
		if dir := filepath.Clean(baseOf([]string{path})); !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	return folders
}

// sourceTable names a table of a source.
type sourceTable struct {
	source string
	table  relay.TableName
}

// testLoader reads one test file.
type testLoader struct {
	*evaluator
	cfg       *Config
	catalogs  map[string]*relay.Catalog
	relations map[sourceTable]*testRelation
	nextOID   uint32
}

// testBody is a test that was decoded and whose rows are not made yet: their
// types are known when all of the file has been read.
type testBody struct {
	*RuleTest
	changes []*changeBody
}

// changeBody is a change as it was written.
type changeBody struct {
	*body
	op       relay.Op
	source   string
	table    *testRelation // of rows and truncates
	old, new map[string]constant
}

func (l *testLoader) load(file *hclsyntax.Body) []*RuleTest {
	for _, attr := range inOrder(file.Attributes) {
		l.errorf(attr.NameRange, "Argument outside a block", "At the top level of a test file there are only test and locals blocks.")
	}
	var blocks []*hclsyntax.Block
	for _, block := range file.Blocks {
		switch block.Type {
		case "test":
			blocks = append(blocks, block)
		case "locals":
			l.locals.add(l.problems, block)
		default:
			l.notInTests(block)
		}
	}
	l.locals.checkCycles(l.problems)
	first := map[string]hcl.Range{}
	var bodies []*testBody
	for _, block := range blocks {
		t := l.test(block)
		if at, ok := first[t.Name]; ok && t.Name != "" {
			l.errorf(block.DefRange(), "Duplicate test", "A test of this name is already in line %d. Give it another: reports and --run know tests by their names.", at.Start.Line)
		}
		first[t.Name] = block.DefRange()
		bodies = append(bodies, t)
	}
	if !l.files.incomplete {
		l.locals.checkUsed(l.problems)
	}
	for _, r := range l.relations {
		r.complete(l.cfg.rules)
	}
	var tests []*RuleTest
	for _, t := range bodies {
		for _, c := range t.changes {
			if change := l.change(t.RuleTest, c); change != nil {
				t.RuleTest.changes = append(t.RuleTest.changes, change)
			}
		}
		tests = append(tests, t.RuleTest)
	}
	return tests
}

// notInTests reports a block that a test file cannot have.
func (l *testLoader) notInTests(block *hclsyntax.Block) {
	if slices.ContainsFunc(Language(), func(b *Block) bool { return b.Name == block.Type }) {
		l.errorf(block.TypeRange, "Rules in a test file", "Files named *.test.hcl hold tests; the daemon does not read them. Move the %s block to a file with another name.", block.Type)
		return
	}
	hint := ""
	if testBlock.block(block.Type) != nil {
		hint = " It belongs in a test block."
	} else if near := nearest(block.Type, []string{"test", "locals"}); near != "" {
		hint = " Did you mean " + near + "?"
	}
	l.errorf(block.TypeRange, "Unknown block", "At the top level of a test file there are test and locals blocks.%s", hint)
}

// test decodes a test block.
func (l *testLoader) test(block *hclsyntax.Block) *testBody {
	b := l.decode(testBlock, block)
	name := b.labels[0]
	if name.s == "" && len(block.Labels) > 0 {
		l.errorf(name.at, "Empty name", "A test has a name that says what holds, such as \"a paid order is announced once\".")
	}
	t := &testBody{RuleTest: &RuleTest{Name: name.s, File: b.at.Filename, Line: b.at.Start.Line, at: block.Range()}}
	t.tx = l.transaction(b.blocks["tx"])
	t.source = l.testSource(b)
	n := 0 // of the inner blocks that may be repeated, the n-th is inner
	for _, inner := range block.Body.Blocks {
		def := testBlock.block(inner.Type)
		if def == nil || !def.Many {
			continue
		}
		child := b.repeated[n]
		n++
		switch inner.Type {
		case "expect":
			t.events = append(t.events, l.expected(child, inner))
		case "fails":
			t.fails = append(t.fails, l.failure(child))
		default:
			if c := l.changeBody(t.source, child); c != nil {
				t.changes = append(t.changes, c)
			}
		}
	}
	if n == len(t.events)+len(t.fails) && !hasErrorsIn(l.list, block.Range()) {
		l.errorf(b.at, "Test without changes", "A test begins with what happens: insert \"public.orders\" { new = { ... } }, or one of %s.", list(changeNames(), "and"))
	}
	return t
}

func hasErrorsIn(diags hcl.Diagnostics, at hcl.Range) bool {
	return slices.ContainsFunc(diags, func(d *hcl.Diagnostic) bool {
		return d.Severity == hcl.DiagError && d.Subject != nil && at.Overlaps(*d.Subject)
	})
}

func changeNames() []string {
	var names []string
	for _, b := range changeBlocks {
		names = append(names, b.Name)
	}
	return names
}

// testSource returns the name of the source the changes are of. "" is one that
// is found by what its rules are about, see sourceOf.
func (l *testLoader) testSource(b *body) string {
	if arg := b.arg("source"); arg != nil {
		if name := l.eventSource(b, l.cfg.Sources); l.cfg.Source(name) != nil {
			return name
		}
		return "" // reported
	}
	if len(l.cfg.Sources) == 1 {
		return l.cfg.Sources[0].Name
	}
	return ""
}

// sourceOf returns the source of which rules are about a subject. It reports
// when there is none, or more than one.
func (l *testLoader) sourceOf(given string, at hcl.Range, subject string, about func(*rule) bool, subjects func(*rule) []string) (string, bool) {
	found, known := map[string]bool{}, []string(nil)
	for _, r := range l.cfg.rules {
		if given != "" && r.Source != given {
			continue
		}
		known = append(known, subjects(r)...)
		if about(r) {
			found[r.Source] = true
		}
	}
	names := slices.Sorted(maps.Keys(found))
	switch len(names) {
	case 1:
		return names[0], true
	case 0:
		l.errorf(at, "No rule is about this", "No event block%s names %s, so this test could not fail.%s", ofSource(given), subject, didYouMean(subject, known))
	default:
		l.errorf(at, "Several sources", "Rules of %s are about %s. Say which source the changes are of, with source = source.%s in the test block.", list(names, "and"), subject, names[0])
	}
	return "", false
}

func ofSource(name string) string {
	if name == "" {
		return ""
	}
	return " of source " + name
}

// transaction decodes a tx block.
func (l *testLoader) transaction(b *body) relay.Tx {
	tx := relay.Tx{XID: uint32(get[int](b, "xid"))}
	lsn := get[settingText](b, "lsn")
	var err error
	if tx.CommitLSN, err = relay.ParseLSN(lsn.s); err != nil || tx.CommitLSN == 0 {
		l.errorf(b.where("lsn"), "Invalid position", "A position in the WAL is two hexadecimal numbers joined by a slash, such as \"16/B374D848\".")
	}
	at := get[settingText](b, "commit_time")
	when, err := time.Parse(time.RFC3339Nano, at.s)
	if err != nil {
		l.errorf(b.where("commit_time"), "Invalid time", "A time is written as in \"2026-01-31T09:30:00Z\", with fractions of a second if need be.")
	}
	tx.CommitTime = when.UnixMicro()
	if c := b.arg("context"); c != nil && c.val != nil && l.plain(c.val.(constant)) {
		tx.Context = appendJSON(nil, c.val.(constant))
	}
	return tx
}

// plain reports a value that env() or file() had a part in: a test means the
// same on every machine.
func (l *testLoader) plain(v constant) bool {
	if v.secret {
		l.errorf(v.at, "Test depends on the machine", "env() and file() are for settings. Write the value here, or as a local.")
		return false
	}
	for _, part := range slices.Concat(v.keys, v.items) {
		if !l.plain(part) {
			return false
		}
	}
	return true
}

// expected decodes an expect block.
func (l *testLoader) expected(b *body, block *hclsyntax.Block) *expectedEvent {
	x := &expectedEvent{body: b, typ: b.labels[0].s, block: block.Range()}
	var types []string
	for _, r := range l.cfg.rules {
		types = append(types, r.Type)
	}
	if x.typ != "" && !slices.Contains(types, x.typ) {
		l.errorf(b.labels[0].at, "Unknown event type", "No event block makes the type %s.%s", x.typ, didYouMean(x.typ, types))
	}
	if r := get[settingText](b, "rule"); r.s != "" {
		l.ruleName(r)
	}
	if b.arg("data") != nil && b.arg("includes") != nil {
		l.errorf(b.arg("includes").name, "Argument without effect", "data is all of the event's data, so includes says nothing more. Remove one of the two.")
	}
	for _, name := range []string{"key", "old_key", "tenant"} {
		if s := b.arg(name); s != nil && s.val != nil {
			if k := s.val.(constant).kind; k == listConst || k == objectConst {
				l.errorf(s.expr.Range(), "Wrong type of value", "%s is a string, a number or null.", name)
			}
		}
	}
	for _, s := range b.args {
		if v, ok := s.val.(constant); ok {
			l.plain(v)
		}
	}
	return x
}

func (l *testLoader) ruleName(name settingText) {
	var names []string
	for _, r := range l.cfg.rules {
		names = append(names, r.Name)
	}
	if !slices.Contains(names, name.s) {
		l.errorf(name.at, "Unknown rule", "There is no event block labelled %s.%s", name.s, didYouMean(name.s, names))
	}
}

// failure decodes a fails block.
func (l *testLoader) failure(b *body) *expectedFailure {
	if b.labels[0].s != "" {
		l.ruleName(b.labels[0])
	}
	return &expectedFailure{rule: b.labels[0].s, message: get[settingText](b, "message").s, at: b.at}
}
