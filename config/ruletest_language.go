package config

// TestLanguage returns the definitions of the top-level blocks of test files
// (*.test.hcl), in the order of the reference.
func TestLanguage() []*Block { return []*Block{testBlock, localsBlock} }

var testBlock = &Block{
	Name: "test",
	Many: true,
	Labels: []Label{
		{Name: "name", Doc: "The name says what holds, such as \"an order that is paid twice is announced once\". It is unique in its file."},
	},
	Doc: "Changes, and the events they must make. All changes of a test are one transaction, in the order in which they stand; a notification, and a message outside a transaction, divides it in two. " +
		"The expect blocks are all events, in order: a test without one expects that no event is made. A rule that fails fails the test, unless a fails block expects it.",
	Arguments: []Argument{
		{Name: "source", Type: TypeSource,
			Doc: "The source the changes are of, as source.NAME. It may be left out when there is one source, or when only the rules of one are about them."},
	},
	Blocks: append([]*Block{txBlock}, append(changeBlocks, expectBlock, failsBlock)...),
}

var txBlock = &Block{
	Name: "tx",
	Doc:  "What rules see of the transaction.",
	Arguments: []Argument{
		{Name: "xid", Type: TypeInteger, Default: "1000", Min: 1, Max: 1<<32 - 1, Doc: "The transaction id."},
		{Name: "lsn", Type: TypeString, Default: `"0/1000000"`, Doc: "The position of the commit in the WAL."},
		{Name: "commit_time", Type: TypeString, Default: `"2026-01-01T00:00:00Z"`, Doc: "When the transaction committed, which is the time of its events."},
		{Name: "context", Type: TypeObject, Doc: "tx.context: what the application said of the transaction in messages with the prefix rowhook.context. The default is none."},
	},
}

const (
	rowDoc   = "The columns of the row, as literals: numbers, strings, true, false, null, and objects or lists for json. A string is also taken as PostgreSQL prints the value: \"12.50\", \"{a,b}\", \"2026-01-31 09:30:00+00\"."
	tableDoc = "The label is the table, with its schema: \"public.orders\"."
)

// changeBlocks are the kinds of changes.
var changeBlocks = []*Block{
	{
		Name: "insert", Many: true, Labels: []Label{{Name: "table", Doc: tableDoc}},
		Doc:       "A row that was inserted.",
		Arguments: []Argument{{Name: "new", Type: TypeObject, Required: true, Doc: rowDoc + " Columns that are not named are null."}},
	},
	{
		Name: "update", Many: true, Labels: []Label{{Name: "table", Doc: tableDoc}},
		Doc: "A row that was updated. A column that only one of old and new names did not change; one that neither names is null.",
		Arguments: []Argument{
			{Name: "old", Type: TypeObject, Doc: "The row before, as far as the replica identity of the table carries it. " + rowDoc},
			{Name: "new", Type: TypeObject, Required: true, Doc: "The row after. " + rowDoc},
			{Name: "unchanged", Type: TypeStrings,
				Doc: "Columns that PostgreSQL does not send, because their values are stored out of line (TOAST) and did not change. Under REPLICA IDENTITY FULL the old row has them all the same."},
		},
	},
	{
		Name: "delete", Many: true, Labels: []Label{{Name: "table", Doc: tableDoc}},
		Doc:       "A row that was deleted.",
		Arguments: []Argument{{Name: "old", Type: TypeObject, Required: true, Doc: "The row, as far as the replica identity of the table carries it. " + rowDoc + " Columns that are not named are null."}},
	},
	{
		Name: "truncate", Many: true, Labels: []Label{{Name: "table", Doc: tableDoc}},
		Doc: "A table that was truncated.",
	},
	{
		Name: "read", Many: true, Labels: []Label{{Name: "table", Doc: tableDoc}},
		Doc:       "A row that a backfill found.",
		Arguments: []Argument{{Name: "new", Type: TypeObject, Required: true, Doc: rowDoc + " Columns that are not named are null."}},
	},
	{
		Name: "notify", Many: true, Labels: []Label{{Name: "channel", Doc: "The label is the channel of NOTIFY."}},
		Doc:       "A notification.",
		Arguments: []Argument{{Name: "payload", Type: TypeValue, Doc: "The payload: a string as it is, anything else as JSON. The default is the empty string."}},
	},
	{
		Name: "message", Many: true, Labels: []Label{{Name: "prefix", Doc: "The label is the prefix of the logical message."}},
		Doc: "A logical message, as pg_logical_emit_message sends it.",
		Arguments: []Argument{
			{Name: "payload", Type: TypeValue, Doc: "The payload: a string as it is, anything else as JSON. The default is the empty string."},
			{Name: "transactional", Type: TypeBool, Default: "true", Doc: "Whether it belongs to the transaction, or was sent outside of one."},
		},
	},
}

var expectBlock = &Block{
	Name: "expect",
	Many: true,
	Labels: []Label{
		{Name: "type", Doc: "The label is the type of the event."},
	},
	Doc: "An event that must be made. What is not written is not looked at.",
	Arguments: []Argument{
		{Name: "rule", Type: TypeString, Doc: "The label of the rule that makes it."},
		{Name: "version", Type: TypeInteger, Min: 1, Doc: "Its version."},
		{Name: "op", Type: TypeString, OneOf: []string{"insert", "update", "delete", "truncate", "read", "notify", "message"}, Doc: "The operation it is made of."},
		{Name: "table", Type: TypeString, Doc: "Its table."},
		{Name: "key", Type: TypeValue, Doc: "Its key, such as \"public.orders/42\"; null is none."},
		{Name: "old_key", Type: TypeValue, Doc: "Its key before an update that changed it; null is none."},
		{Name: "tenant", Type: TypeValue, Doc: "Its tenant; null is none."},
		{Name: "unchanged", Type: TypeStrings, Doc: "The columns that are left out of a passed-through row, because PostgreSQL did not send them."},
		{Name: "data", Type: TypeValue, Doc: "Its data, all of it. Numbers are compared by value, objects whatever the order of their attributes."},
		{Name: "includes", Type: TypeObject, Doc: "A part of its data: the attributes that are written, also in objects inside, must be there and equal; others may be there too."},
	},
}

var failsBlock = &Block{
	Name: "fails",
	Many: true,
	Labels: []Label{
		{Name: "rule", Doc: "The label is that of the rule."},
	},
	Doc: "A rule that must fail on a change, whatever its on_error says. One that halts ends the test: the source stops there, and no event of the transaction is made.",
	Arguments: []Argument{
		{Name: "message", Type: TypeString, Doc: "A part of the error."},
	},
}
