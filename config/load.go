package config

import (
	"os"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/relay"
)

// Options are the surroundings of a load. The zero value is those of the
// process.
type Options struct {
	// Getenv looks up the variables of env(); nil is os.LookupEnv. A variable
	// that is empty counts as not set.
	Getenv func(name string) (string, bool)
	// ReadFile reads the files of file(); nil reads from disk.
	ReadFile func(path string) ([]byte, error)
	// WithoutSecrets makes a missing variable or file a warning, and the setting
	// zero: for checks where the daemon's secrets are not at hand.
	WithoutSecrets bool
}

func (o *Options) getenv(name string) (string, bool) {
	if o.Getenv == nil {
		return os.LookupEnv(name)
	}
	return o.Getenv(name)
}

func (o *Options) readFile(path string) ([]byte, error) {
	if o.ReadFile == nil {
		return readSecretFile(path)
	}
	return o.ReadFile(path)
}

// Config is what a set of files says.
type Config struct {
	Settings Settings
	Sources  []Source
	Rules    []*relay.Rule
	Sinks    []Sink

	rules []*rule // of Rules, in their order
	files *Files
}

// Source returns the named source, or nil.
func (c *Config) Source(name string) *Source {
	for i := range c.Sources {
		if c.Sources[i].Name == name {
			return &c.Sources[i]
		}
	}
	return nil
}

// Load reads the configuration in the given files and folders, merged. Of a
// folder it takes the files *.hcl that are not tests (*.test.hcl), and no
// folder inside.
//
// The diagnostics hold every mistake that can be known without a database. When
// there is an error among them the Config is nil. Files is never nil; it
// prints the diagnostics.
func Load(paths []string, opts Options) (*Config, *Files, hcl.Diagnostics) {
	p := &problems{}
	return load(p, readFiles(p, paths), baseOf(paths), opts)
}

// loadText loads one file that is in memory.
func loadText(name string, src []byte, opts Options) (*Config, *Files, hcl.Diagnostics) {
	p, files := &problems{}, &Files{files: map[string]*hcl.File{}}
	files.parse(p, name, src)
	return load(p, files, ".", opts)
}

func load(p *problems, files *Files, base string, opts Options) (*Config, *Files, hcl.Diagnostics) {
	l := &loader{evaluator: &evaluator{problems: p, opts: &opts, files: files, locals: &locals{byName: map[string]*local{}}}}
	cfg := l.load(base)
	diags := p.sorted()
	if diags.HasErrors() {
		return nil, files, diags
	}
	return cfg, files, diags
}

// loader sorts the top-level blocks of all files by type.
type loader struct {
	*evaluator
	rowhook *hclsyntax.Block
	sources []*hclsyntax.Block
	events  []*hclsyntax.Block
	sinks   []*hclsyntax.Block
}

func (l *loader) load(base string) *Config {
	for _, name := range l.files.order {
		if syntax, ok := l.files.files[name].Body.(*hclsyntax.Body); ok {
			l.sort(syntax)
		}
	}
	l.locals.checkCycles(l.problems)

	cfg := &Config{files: l.files}
	top := l.rowhook
	if top == nil {
		top = &hclsyntax.Block{Type: "rowhook", Body: &hclsyntax.Body{}}
	}
	cfg.Settings = l.settings(l.decode(rowhookBlock, top), base)
	for _, block := range l.sources {
		cfg.Sources = append(cfg.Sources, l.source(l.decode(sourceBlock, block)))
	}
	l.checkSources(cfg.Sources)
	for _, block := range l.events {
		r := l.event(l.decode(eventBlock, block), cfg.Sources)
		r.block = block.Range()
		cfg.rules = append(cfg.rules, r)
	}
	l.checkRules(cfg)
	var patterns []settingText
	for _, block := range l.sinks {
		if b := l.decodeSink(block); b != nil {
			cfg.Sinks = append(cfg.Sinks, l.sink(b))
			patterns = append(patterns, get[[]settingText](b, "events")...)
		}
	}
	l.checkSinks(cfg.Sinks)
	if !l.files.incomplete {
		unmatched(l.problems, patterns, cfg.rules)
		l.locals.checkUsed(l.problems)
	}
	for _, r := range cfg.rules {
		cfg.Rules = append(cfg.Rules, r.Rule)
	}
	return cfg
}

// sort puts the blocks of one file where they belong.
func (l *loader) sort(file *hclsyntax.Body) {
	for _, attr := range inOrder(file.Attributes) {
		if slices.ContainsFunc(Language(), func(b *Block) bool { return b.Name == attr.Name }) {
			l.errorf(attr.NameRange, "Block written as an argument", "%s is a block: write %s { ... } without the equals sign.", attr.Name, attr.Name)
			continue
		}
		hint := ""
		if home := homeOf(nil, attr.Name); home != "" {
			hint = " " + attr.Name + " belongs in " + home + "."
		}
		l.errorf(attr.NameRange, "Argument outside a block", "At the top level of a file there are only blocks.%s", hint)
	}
	for _, block := range file.Blocks {
		switch block.Type {
		case "rowhook":
			if l.rowhook != nil {
				l.errorf(block.DefRange(), "Duplicate block", "There is one rowhook block in all files; the other one is in %s. Join the two.", place(l.rowhook.DefRange()))
				continue
			}
			l.rowhook = block
		case "source":
			l.sources = append(l.sources, block)
		case "event":
			l.events = append(l.events, block)
		case "sink":
			l.sinks = append(l.sinks, block)
		case "locals":
			l.locals.add(l.problems, block)
		default:
			l.unknownBlock(nil, block)
		}
	}
}

// decodeSink decodes a sink block by the definition of its type, or returns
// nil when there is no such type.
func (l *loader) decodeSink(block *hclsyntax.Block) *body {
	var types []string
	for _, def := range Language() {
		if def.Name != "sink" {
			continue
		}
		kind := def.Labels[0].OneOf[0]
		if len(block.Labels) > 0 && block.Labels[0] == kind {
			return l.decode(def, block)
		}
		types = append(types, kind)
	}
	if len(block.Labels) < 2 { // the type was left out, most likely
		return l.decode(webhookBlock, block)
	}
	hint := didYouMean(block.Labels[0], types)
	if hint == "" {
		hint = " There is " + list(quoteAll(types), "and") + "."
	}
	l.errorf(block.LabelRanges[0], "Unknown type of sink", "There is no sink \"%s\".%s", block.Labels[0], hint)
	return nil
}

func (l *loader) checkSources(sources []Source) {
	if len(sources) == 0 && !l.files.incomplete && len(l.files.order) > 0 {
		at := hcl.Range{}
		if len(l.events) > 0 {
			at = l.events[0].DefRange()
		}
		l.errorf(at, "No source", "Nothing says which database to read. Add: source \"postgres\" \"main\" { url = env(\"DATABASE_URL\") }")
	}
	for i, s := range sources {
		for _, o := range sources[:i] {
			switch {
			case s.Name == o.Name && s.Name != "":
				l.errorf(s.Range, "Duplicate source", "A source named %s is already in %s. Names of sources are unique over all files.", s.Name, place(o.Range))
			case !s.URL.IsZero() && s.URL == o.URL:
				l.errorf(s.Range, "Two sources on one database", "The source %s has the same URL as %s (%s), and every change would come twice. Let the events of both name one source.", s.Name, o.Name, place(o.Range))
			}
		}
	}
}

func (l *loader) checkRules(cfg *Config) {
	if len(l.events) == 0 && !l.files.incomplete && len(l.files.order) > 0 {
		l.warnf(hcl.Range{}, "No events", "There is no event block, so no change makes an event.")
	}
	first := map[string]*rule{}
	for _, r := range cfg.rules {
		if r.Name == "" {
			continue
		}
		if o := first[r.Name]; o != nil {
			l.errorf(r.at, "Duplicate event", "An event labelled %s is already in %s. Labels are unique over all files; for another version of an event, choose another label and set type = \"%s\" and version = 2.", r.Name, place(o.at), r.Type)
			continue
		}
		first[r.Name] = r
	}
	checkOverlap(l.problems, cfg.rules)
	checkBackfill(l.problems, cfg.Sources, cfg.rules)
}

func (l *loader) checkSinks(sinks []Sink) {
	first := map[string]Sink{}
	for _, s := range sinks {
		name := s.Endpoint.ID
		if o, ok := first[name]; ok && name != "" {
			l.errorf(s.Range, "Duplicate sink", "A sink named %s is already in %s. Names are unique among the sinks of all types.", name, place(o.Range))
			continue
		}
		first[name] = s
	}
}
