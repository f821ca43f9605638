package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/relay"
)

var (
	ofTable   = []string{"table"}
	ofPayload = []string{"channel", "message"}
)

var eventBlock = &Block{
	Name: "event",
	Many: true,
	Labels: []Label{
		{Name: "label", Doc: "The label is segments of a-z, 0-9 and _ joined by dots, such as \"order.paid\", unique over all files. Labels that begin with rowhook. are for operational events."},
	},
	Doc: "A rule: which changes it matches, and the event it makes of them. It names exactly one of table, tables, channel and message. The label is the rule's name; ids of events are made of it, so a renamed rule makes new ids.",
	Arguments: []Argument{
		{Name: "description", Type: TypeString,
			Doc: "What the event means, for people who receive it."},
		{Name: "type", Type: TypeString,
			Doc: "The type of the event, which endpoints choose by. The default is the label."},
		{Name: "version", Type: TypeInteger, Default: "1", Min: 1, Max: 1_000_000,
			Doc: "The version of the event's data. Two versions of a type are two rules, and an endpoint may choose order.paid@2."},
		{Name: "source", Type: TypeSource,
			Doc: "The source whose changes the rule sees, as source.NAME. It may be left out when there is one source."},
		{Name: "table", Type: TypeString, In: ofTable,
			Doc: "The table, with its schema: \"public.orders\". Names are literal, case and all; the first dot splits, and a schema that has a dot itself stands in quotes: \"\\\"we.ird\\\".orders\"."},
		{Name: "tables", Type: TypeStrings, In: ofTable,
			Doc: "Several tables, which must all have the columns the rule reads."},
		{Name: "channel", Type: TypeString, In: []string{"channel"},
			Doc: "The channel of NOTIFY, literal, case and all. NOTIFY is lossy: what is sent while rowhook is not connected never arrives. The gap is recorded, not filled; message is the durable way."},
		{Name: "message", Type: TypeString, In: []string{"message"},
			Doc: "The prefix of logical messages: pg_logical_emit_message(true, 'PREFIX', 'payload'). It matches the whole prefix."},
		{Name: "on", Type: TypeStrings, OneOf: []string{"insert", "update", "delete", "truncate", "read"}, In: ofTable,
			Doc: "The operations that the rule matches. It is required for tables. read is a row that a backfill found."},
		{Name: "when", Type: TypeExpression,
			Doc: "The condition, a bool. Without it every change matches."},
		{Name: "for_each", Type: TypeExpression,
			Doc: "A list or an object; one event is made of each of its elements, in their order, with each.key (its index or name) and each.value in key, tenant and data. null makes no event, and so does an empty list. At most 1,000 events come of one change. To choose among the elements, filter: [for x in new.items : x if x.qty > 0]."},
		{Name: "key", Type: TypeExpression,
			Doc: "The key of the event: events of one key reach an endpoint in order. The default for rows is the table and the primary key; keys written here are one namespace, so that rules can order across tables. null is no key and no order."},
		{Name: "tenant", Type: TypeExpression,
			Doc: "The customer of the application that the event is about."},
		{Name: "data", Type: TypeExpression, Required: true,
			Doc: "What the event carries: an object, row for the whole row, or payload."},
		{Name: "on_error", Type: TypeString, OneOf: onErrors,
			Doc: "What happens when the rule fails on a change. The default is on_error of the source. continue: the change becomes a dead letter, and the source goes on until the rule has failed max_rule_failures times in a row. halt: the source stops before the change, which is judged again when the rule is corrected; nothing is lost and the order holds. skip: the source goes on and the change makes no event of this rule, ever. Each failure is counted and logged, and the last is in the status."},
		{Name: "payload_format", Type: TypeString, Default: `"json"`, OneOf: []string{"json", "text"}, In: ofPayload,
			Doc: "Whether payload is parsed as JSON, or is the raw string. With json a payload that is no JSON makes a dead letter."},
		{Name: "non_transactional", Type: TypeBool, Default: "false", In: []string{"message"},
			Doc: "Whether messages emitted outside a transaction (the first argument of pg_logical_emit_message is false) match too. They survive a rollback."},
		{Name: "numbers", Type: TypeString, Default: `"number"`, OneOf: []string{"number", "string"},
			Doc: "How numbers are written in data. number: as PostgreSQL prints them, all digits. string: in quotes, for receivers whose JSON numbers are floats."},
		{Name: "barrier", Type: TypeBool, Default: "false", In: ofTable,
			Doc: "Whether the event is ordered with every event of its table at an endpoint, not only with those of its key. Events of truncate always are."},
	},
	Blocks: []*Block{schemaBlock},
}

// rule is a relay.Rule with what only a check needs.
type rule struct {
	*relay.Rule
	exprs  *ruleExprs
	tables []tableRef
	at     hcl.Range // the header of the block
	block  hcl.Range // all of it
	locals []*local  // that it needs
}

// tableRef is a table as a rule names it.
type tableRef struct {
	name relay.TableName
	at   hcl.Range
}

var operations = map[string]relay.Op{
	"insert": relay.Insert, "update": relay.Update, "delete": relay.Delete, "truncate": relay.Truncate, "read": relay.Read,
}

// event compiles an event block. It returns a rule even when parts of it are
// wrong, so that what depends on it is judged too; the rule can be used only
// when nothing was reported.
func (e *evaluator) event(b *body, sources []Source) *rule {
	label := b.labels[0]
	e.label(b, label)
	r := &rule{at: b.at, Rule: &relay.Rule{
		Name:             label.s,
		Type:             label.s,
		Version:          get[int](b, "version"),
		Description:      get[settingText](b, "description").s,
		Source:           e.eventSource(b, sources),
		NonTransactional: get[bool](b, "non_transactional"),
		Barrier:          get[bool](b, "barrier"),
	}}
	if t := get[settingText](b, "type"); t.s != "" {
		r.Type = t.s
		e.eventType(t, "type")
	}
	kind, one := e.subject(b, r)
	e.operations(b, r, kind, one)
	if one {
		form := [...]string{"table", "channel", "message"}[kind]
		for i := range b.def.Arguments {
			arg := &b.def.Arguments[i]
			if s := b.args[arg.Name]; s != nil && len(arg.In) > 0 && !slices.Contains(arg.In, form) {
				e.errorf(s.name, "Argument does not apply", "%s is for events on %s; this one is on a %s.", arg.Name, formsText(arg.In), form)
			}
		}
	}
	r.OnError = e.onError(b, sources, r.Source, kind == ruleChannel && one)
	listed := slices.ContainsFunc(sources, func(s Source) bool { return s.Name == r.Source && s.Columns == ColumnsRules })
	e.expressions(b, r, kind, one, listed)
	return r
}

var onErrors = []string{"continue", "halt", "skip"}

// onErrorOf returns what on_error of a block says.
func onErrorOf(b *body) relay.OnError {
	return map[string]relay.OnError{"halt": relay.OnErrorHalt, "skip": relay.OnErrorSkip}[get[settingText](b, "on_error").s]
}

// onError returns the rule's own on_error or else its source's. No source can
// halt before a notification.
func (e *evaluator) onError(b *body, sources []Source, source string, notification bool) relay.OnError {
	if s := b.arg("on_error"); s != nil {
		own := onErrorOf(b)
		if own == relay.OnErrorHalt && notification {
			e.errorf(s.expr.Range(), "Argument does not apply", "A notification that is not taken is lost, so its source cannot halt before it. Use \"continue\", or send the event as a logical message.")
		}
		return own
	}
	i := slices.IndexFunc(sources, func(s Source) bool { return s.Name == source })
	if i < 0 || sources[i].OnError == relay.OnErrorHalt && notification {
		return relay.OnErrorContinue
	}
	return sources[i].OnError
}

func formsText(forms []string) string {
	names := map[string]string{"table": "tables", "channel": "channels", "message": "messages"}
	var words []string
	for _, f := range forms {
		words = append(words, names[f])
	}
	return list(words, "and")
}

func (e *evaluator) label(b *body, label settingText) {
	if label.s == "" && label.at == b.at {
		return // missing, and reported
	}
	e.eventType(label, "label")
}

// maxLabel bounds labels and types: they stand in every id, row and metric.
const maxLabel = 200

// eventType reports a label or type that events cannot have.
func (e *evaluator) eventType(t settingText, what string) {
	summary := "Invalid event " + what
	switch {
	case t.unknown:
	case !relay.ValidType(t.s):
		hint := ""
		if fixed := fixedType(t.s); fixed != "" && !t.secret {
			hint = ` Write "` + fixed + `".`
		}
		e.errorf(t.at, summary, "The %s of an event is segments of a-z, 0-9 and _ joined by dots, such as \"order.paid\".%s", what, hint)
	case t.s == "rowhook" || strings.HasPrefix(t.s, "rowhook."):
		e.errorf(t.at, summary, "What begins with rowhook. is for rowhook's own operational events. Choose another first segment.")
	case len(t.s) > maxLabel:
		e.errorf(t.at, summary, "The %s of an event has at most %d characters; this one has %d.", what, maxLabel, len(t.s))
	}
}

// fixedType returns what a type would be with its wrong characters replaced.
func fixedType(s string) string {
	var segs []string
	for seg := range strings.SplitSeq(strings.ReplaceAll(s, "/", "."), ".") {
		if seg = strings.Trim(notName.ReplaceAllString(strings.ToLower(seg), "_"), "_"); seg != "" {
			segs = append(segs, seg)
		}
	}
	return strings.Join(segs, ".")
}

// eventSource returns the name of the rule's source.
func (e *evaluator) eventSource(b *body, sources []Source) string {
	var names, refs []string
	for _, s := range sources {
		names = append(names, s.Name)
		refs = append(refs, "source."+s.Name)
	}
	arg := b.arg("source")
	if arg == nil {
		switch len(sources) {
		case 0: // reported once for all events
		case 1:
			return sources[0].Name
		default:
			e.errorf(b.at, "Missing argument", "There are several sources. Say which one the event is about: source = %s.", list(refs, "or"))
		}
		return ""
	}
	name, ok := e.sourceName(arg.expr)
	if ok && !slices.Contains(names, name) {
		hint := didYouMean(name, names)
		if hint == "" && len(refs) > 0 {
			hint = " There is " + list(refs, "and") + "."
		}
		e.errorf(arg.expr.Range(), "Unknown source", "There is no source block named %s.%s", name, hint)
	}
	return name
}

// sourceName reads source.NAME or "NAME".
func (e *evaluator) sourceName(expr hclsyntax.Expression) (string, bool) {
	if t, diags := hcl.AbsTraversalForExpr(expr); !diags.HasErrors() {
		if len(t) == 2 && t.RootName() == "source" {
			if attr, ok := t[1].(hcl.TraverseAttr); ok {
				return attr.Name, true
			}
		}
		hint := ""
		if len(t) == 1 {
			hint = " Write source." + t.RootName() + "."
		}
		e.errorf(expr.Range(), "Invalid reference to a source", "A source is named by source.NAME.%s", hint)
		return "", false
	}
	v, ok := e.eval(expr)
	if ok && (v.kind != textConst || v.secret) {
		e.errorf(v.at, "Invalid reference to a source", "A source is named by source.NAME.")
		return "", false
	}
	return v.text, ok
}

// subject decodes what the rule is about: tables, a channel or messages. It
// returns false when that is not exactly one.
func (e *evaluator) subject(b *body, r *rule) (ruleKind, bool) {
	kind, found := ruleTable, []string{}
	for _, name := range []string{"table", "tables", "channel", "message"} {
		s := b.arg(name)
		if s == nil {
			continue
		}
		found = append(found, name)
		switch name {
		case "table":
			e.table(r, get[settingText](b, "table"))
		case "tables":
			for _, t := range get[[]settingText](b, "tables") {
				e.table(r, t)
			}
		case "channel":
			kind, r.Channel = ruleChannel, e.serverName(get[settingText](b, "channel"), "channel")
		case "message":
			kind, r.Message = ruleMessage, get[settingText](b, "message").s
			if r.Message == "rowhook" || strings.HasPrefix(r.Message, "rowhook.") {
				e.errorf(s.expr.Range(), "Reserved message prefix", "Prefixes that begin with rowhook. are rowhook's own; rowhook.context sets tx.context. Choose another prefix.")
			}
		}
	}
	switch len(found) {
	case 1:
		return kind, true
	case 0:
		e.errorf(b.at, "Event without a subject", "Say what the event is about with one of: table = \"public.orders\", tables = [...], channel = \"...\" (NOTIFY) or message = \"...\" (logical messages).")
	default:
		hint := ""
		if slices.Equal(found, []string{"table", "tables"}) {
			hint = " Put all of them into tables."
		}
		e.errorf(b.args[found[1]].name, "Event with several subjects", "This event has %s; an event is about one of them.%s", list(found, "and"), hint)
	}
	return kind, false
}

func (e *evaluator) serverName(t settingText, what string) string {
	if len(t.s) > maxIdentifier {
		e.errorf(t.at, "Name is too long", "PostgreSQL allows 63 bytes in the name of a %s; this one has %d.", what, len(t.s))
	}
	return t.s
}

func (e *evaluator) table(r *rule, t settingText) {
	if t.s == "" {
		return // reported, or unknown
	}
	name, problem := parseTable(t.s)
	switch {
	case problem != "" && t.secret:
		e.errorf(t.at, "Invalid table name", "A table is named by schema and name, as in \"public.orders\".")
	case problem != "":
		e.errorf(t.at, "Invalid table name", "%s", problem)
	case name.Schema == "pg_catalog" || name.Schema == "information_schema" || name.Schema == "pg_toast":
		e.errorf(t.at, "System table", "PostgreSQL does not replicate changes of its own tables.")
	case slices.Contains(r.Tables, name):
		e.errorf(t.at, "Duplicate entry", "The table %s is already in the list. Remove one of the two.", name)
	default:
		r.Tables = append(r.Tables, name)
		r.tables = append(r.tables, tableRef{name, t.at})
	}
}

func (e *evaluator) operations(b *body, r *rule, kind ruleKind, one bool) {
	if b.arg("on") == nil && kind == ruleTable && one {
		e.errorf(b.at, "Missing argument", "An event on a table says which operations it matches: on = [\"insert\", \"update\", \"delete\"], or some of them.")
	}
	var ops []relay.Op
	for _, t := range get[[]settingText](b, "on") {
		ops = append(ops, operations[t.s])
	}
	r.Ops = relay.OpsOf(ops...)
	if kind == ruleTable && one && b.arg("barrier") != nil && r.Barrier && r.Ops == relay.OpsOf(relay.Truncate) {
		e.warnf(b.arg("barrier").name, "Argument without effect", "Events of truncate are barriers without it.")
	}
}

// expressionNames are the arguments that are expressions, in the order in which
// the hash of a rule has them.
var expressionNames = [...]string{"when", "key", "tenant", "data", "for_each"}

// expressions compiles when, for_each, key, tenant and data.
func (e *evaluator) expressions(b *body, r *rule, kind ruleKind, one, listed bool) {
	var exprs [len(expressionNames)]hclsyntax.Expression
	var given [len(expressionNames)]hcl.Expression // a nil interface where there is none
	for i, name := range expressionNames {
		if s := b.arg(name); s != nil {
			exprs[i], given[i] = s.expr, s.expr
		}
	}
	reached := e.locals.reach(exprs[:]...)
	r.locals = reached
	for _, l := range reached {
		if l.cyclic || unparsed(l.expr) {
			return // reported at its definition
		}
	}
	for _, x := range exprs {
		if x != nil && unparsed(x) {
			return // reported by the parser
		}
	}
	schema := e.schema(b)
	if !one || exprs[3] == nil || (kind == ruleTable && r.Ops == 0) {
		return // what the expressions may name is not known
	}
	scope := exprScope{
		kind: kind, source: r.Source, ops: r.Ops, tables: r.Tables, locals: e.locals.expressions(),
		forEach:         given[4],
		files:           e.files,
		secret:          e.secretText,
		payloadText:     get[settingText](b, "payload_format").s == "text",
		numbersAsString: get[settingText](b, "numbers").s == "string",
		schema:          schema,
		listed:          listed,
	}
	compiled, diags := compileExprs(scope, given[0], given[1], given[2], given[3])
	e.list = append(e.list, diags...)
	if diags.HasErrors() || compiled == nil {
		return
	}
	r.exprs = compiled
	r.Bind = compiled.bind
	r.Reads, r.All = reads(compiled)
	r.Hash = e.hash(r, scope, exprs, reached)
}

// secretText evaluates a secret that an expression uses. In a check without
// secrets it is a stand-in.
func (e *evaluator) secretText(expr hclsyntax.Expression) (string, bool) {
	v, ok := e.eval(expr)
	if v.kind == unknownConst {
		return "a secret that is not known here", ok
	}
	return v.text, ok
}

// reads lists each column once, as new or old value.
func reads(x *ruleExprs) ([]relay.ColumnRef, bool) {
	uses, all := x.reads()
	var refs []relay.ColumnRef
	for _, u := range uses {
		ref := relay.ColumnRef{Name: u.name, Old: u.old}
		if !u.whole && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	return refs, all
}

// checkOverlap warns of two rules that may make the same type and version of
// one change: nearly always the second was meant as another version.
func checkOverlap(p *problems, rules []*rule) {
	for i, r := range rules {
		for _, o := range rules[:i] {
			if r.Type == o.Type && r.Type != "" && r.Version == o.Version && r.Source == o.Source && overlap(r, o) {
				p.warnf(r.at, "Two rules make the same event", "The rule %s (%s) makes %s version %d of the same changes, so an endpoint may get two events of one change. If this is another form of the event, give it a version of its own: version = %d.",
					o.Name, place(o.at), o.Type, o.Version, max(r.Version, o.Version)+1)
				break
			}
		}
	}
}

func overlap(a, b *rule) bool {
	if a.Channel != "" || a.Message != "" {
		return a.Channel == b.Channel && a.Message == b.Message
	}
	return a.Ops&b.Ops != 0 && slices.ContainsFunc(a.Tables, func(t relay.TableName) bool { return slices.Contains(b.Tables, t) })
}
