package integration_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhook/rowhook/integration/postgres"
)

// testSeed is ROWHOOK_SEED, or of the clock. It is printed.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano() % 1_000_000_000)
	if text := os.Getenv("ROWHOOK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("ROWHOOK_SEED: %v", err)
		}
	}
	t.Logf("again with ROWHOOK_SEED=%d", seed)
	return seed
}

// randomValues compares rows of random values in tables of random types:
// arrays, domains, composites, ranges and enums of each other.
func randomValues(t *testing.T, cluster *postgres.Cluster) {
	const tables, rows = 8, 15
	v := newValues(t, cluster, "randomvalues", "", "CREATE EXTENSION IF NOT EXISTS hstore")
	g := &valueMaker{Rand: rand.New(rand.NewPCG(testSeed(t), 1)), exec: v.exec}
	v.run()
	var names []string
	for n := range tables {
		name := fmt.Sprintf("r%d", n)
		names = append(names, name)
		columns := make([]randomType, 1+g.IntN(8))
		create := "CREATE TABLE " + name + " (id int PRIMARY KEY"
		for i := range columns {
			columns[i] = g.pick(3)
			create += fmt.Sprintf(", %s %s", pgx.Identifier{fmt.Sprint(i, " ", g.label())}.Sanitize(), columns[i].name)
		}
		v.exec(create + ")")
		insert := ""
		for id := range rows {
			insert += fmt.Sprintf("INSERT INTO %s VALUES (%d", name, id)
			for _, c := range columns {
				insert += ", " + g.of(c)
			}
			insert += ");\n"
		}
		v.exec(insert)
	}
	v.compare("to_jsonb", names...)
	v.stop()
	v.done()
}

// A randomType has its name in SQL, and makes expressions of random values.
type randomType struct {
	name  string
	value func() string
	array bool // whose own arrays would only be more dimensions of it
}

type valueMaker struct {
	*rand.Rand
	exec func(sql string)
	made int
}

// of is a value of the type, or null.
func (g *valueMaker) of(t randomType) string {
	if g.IntN(8) == 0 {
		return "NULL::" + t.name
	}
	return "(" + t.value() + ")::" + t.name
}

func (g *valueMaker) name() string {
	g.made++
	return pgx.Identifier{fmt.Sprintf("%d %s", g.made, g.label())}.Sanitize()
}

// pick returns a type, or makes one of others, up to the depth.
func (g *valueMaker) pick(depth int) randomType {
	if depth == 0 || g.IntN(4) == 0 {
		return g.scalar()
	}
	switch g.IntN(6) {
	case 0, 1:
		elem := g.pick(depth - 1)
		if elem.array {
			elem = g.domain(elem)
		}
		return g.arrayOf(elem)
	case 2:
		return g.domain(g.pick(depth - 1))
	case 3, 4:
		return g.composite(depth - 1)
	}
	return g.scalar()
}

func (g *valueMaker) domain(base randomType) randomType {
	name := g.name()
	g.exec("CREATE DOMAIN " + name + " AS " + base.name)
	return randomType{name: name, value: func() string { return g.of(base) }}
}

func (g *valueMaker) composite(depth int) randomType {
	name := g.name()
	fields := make([]randomType, g.IntN(6))
	var columns []string
	for i := range fields {
		fields[i] = g.pick(depth)
		columns = append(columns, pgx.Identifier{fmt.Sprint(g.label(), i)}.Sanitize()+" "+fields[i].name)
	}
	g.exec("CREATE TYPE " + name + " AS (" + strings.Join(columns, ", ") + ")")
	return randomType{name: name, value: func() string {
		var values []string
		for _, f := range fields {
			values = append(values, g.of(f))
		}
		return "ROW(" + strings.Join(values, ", ") + ")"
	}}
}

func (g *valueMaker) arrayOf(elem randomType) randomType {
	t := randomType{name: elem.name + "[]", array: true}
	list := func(n int) string {
		var values []string
		for range n {
			values = append(values, g.of(elem))
		}
		return "ARRAY[" + strings.Join(values, ", ") + "]::" + t.name
	}
	t.value = func() string {
		n := 1 + g.IntN(4)
		switch g.IntN(5) {
		case 0:
			return "'{}'"
		case 1: // not from 1
			from := g.IntN(9) - 5
			return fmt.Sprintf("'[%d:%d]=' || (%s)::text", from, from+n-1, list(n))
		case 2: // two dimensions
			return fmt.Sprintf("ARRAY[%s, %s]", list(n), list(n))
		}
		return list(n)
	}
	return t
}

// scalar returns a type that is not made of others.
func (g *valueMaker) scalar() randomType {
	quoted := func(f func() string) func() string { return func() string { return quote(f()) } }
	integer := func(bits int) func() string {
		return func() string { return fmt.Sprintf("'%d'", int64(g.Uint64())>>(64-bits)>>g.IntN(bits)) }
	}
	seconds := func(most int) string {
		return strconv.FormatFloat((g.Float64()-0.4)*float64(int64(1)<<g.IntN(most)), 'f', 6, 64)
	}
	switch g.IntN(18) {
	case 0:
		return randomType{name: "bool", value: func() string { return strconv.FormatBool(g.IntN(2) == 0) }}
	case 1:
		return randomType{name: "int2", value: integer(16)}
	case 2:
		return randomType{name: "int8", value: integer(64)}
	case 3:
		return randomType{name: "numeric", value: quoted(func() string { return g.number(40) })}
	case 4:
		return randomType{name: "float4", value: quoted(func() string { return g.float(math.Float64frombits(g.Uint64()), 32) })}
	case 5:
		return randomType{name: "float8", value: quoted(func() string { return g.float(math.Float64frombits(g.Uint64()), 64) })}
	case 6, 7:
		return randomType{name: "text", value: quoted(g.text)}
	case 8:
		return randomType{name: "char(9)", value: func() string { return quote(g.text()) + "::char(9)" }}
	case 9:
		return randomType{name: "bytea", value: func() string { return "decode('" + hex.EncodeToString([]byte(g.text())) + "', 'hex')" }}
	case 10:
		return randomType{name: "date", value: func() string { return fmt.Sprintf("date '2000-01-01' + %d", g.IntN(1<<g.IntN(21))-500000) }}
	case 11:
		return randomType{name: "timestamp", value: func() string { return "timestamp '2000-01-01' + interval '1 s' * " + seconds(38) }}
	case 12:
		return randomType{name: "timestamptz", value: func() string { return "timestamptz '2000-01-01 00:00+00' + interval '1 s' * " + seconds(38) }}
	case 13:
		return randomType{name: "interval", value: func() string {
			return fmt.Sprintf("'%d mons %d days %s s'", g.IntN(100)-50, g.IntN(100)-50, seconds(31))
		}}
	case 14:
		return randomType{name: "jsonb", value: quoted(func() string { return g.document(3) })}
	case 15:
		name, labels := g.name(), []string{"'" + strings.Repeat("é", 1+g.IntN(5)) + "'", quote(g.label()), "''"}
		g.exec("CREATE TYPE " + name + " AS ENUM (" + strings.Join(labels, ", ") + ")")
		return randomType{name: name, value: func() string { return labels[g.IntN(len(labels))] }}
	case 16:
		name, bound := g.name(), g.scalarOf("text", "numeric", "timestamptz")
		g.exec("CREATE TYPE " + name + " AS RANGE (SUBTYPE = " + bound.name + ", MULTIRANGE_TYPE_NAME = " + g.name() + ")")
		return randomType{name: name, value: func() string {
			return fmt.Sprintf("SELECT %s(least(a, b), greatest(a, b), '%s') FROM (SELECT %s AS a, %s AS b) s",
				name, []string{"[]", "()", "[)"}[g.IntN(3)], g.of(bound), g.of(bound))
		}}
	}
	return randomType{name: "hstore", value: func() string {
		return fmt.Sprintf("hstore(ARRAY[%s, 'k'], ARRAY[%s, NULL])", quote(g.text()), quote(g.text()))
	}}
}

// scalarOf returns one of the named scalar types.
func (g *valueMaker) scalarOf(names ...string) randomType {
	want := names[g.IntN(len(names))]
	for {
		if t := g.scalar(); t.name == want {
			return t
		}
	}
}

var letters = []rune("aZ09 _-\"'\\,;(){}[]=:|&.%$\t\n\r\b\x01\x1f\x7fäß€日😀\u2028\ufeff\ufffd\U0010ffff")

func (g *valueMaker) text() string {
	switch g.IntN(12) {
	case 0:
		return ""
	case 1:
		return "NULL"
	}
	out := make([]rune, g.IntN(20))
	for i := range out {
		out[i] = letters[g.IntN(len(letters))]
	}
	return string(out)
}

// label is a text of letters that an identifier of 63 bytes has room for.
func (g *valueMaker) label() string {
	out := make([]rune, 1+g.IntN(8))
	for i := range out {
		out[i] = letters[g.IntN(len(letters))]
	}
	return string(out)
}

// number is a decimal number of up to so many digits on each side.
func (g *valueMaker) number(digits int) string {
	if g.IntN(30) == 0 {
		return "NaN"
	}
	text := []string{"", "-"}[g.IntN(2)] + strconv.Itoa(g.IntN(10))
	for range g.IntN(digits) {
		text += strconv.Itoa(g.IntN(10))
	}
	if g.IntN(2) == 0 {
		text += "."
		for range 1 + g.IntN(digits) {
			text += strconv.Itoa(g.IntN(10) * g.IntN(2))
		}
	}
	return text
}

func (g *valueMaker) float(f float64, bits int) string {
	switch {
	case g.IntN(4) == 0:
		f = float64(g.IntN(2000)-1000) / 8
	case bits == 32:
		f = float64(math.Float32frombits(g.Uint32()))
	}
	return strings.Replace(strconv.FormatFloat(f, 'g', -1, bits), "Inf", "Infinity", 1)
}

// document is a JSON text that jsonb takes.
func (g *valueMaker) document(depth int) string {
	word := func() string {
		quoted, _ := json.Marshal(g.text())
		return string(quoted)
	}
	kind := g.IntN(7)
	if depth == 0 {
		kind = g.IntN(4)
	}
	switch kind {
	case 0:
		return []string{"null", "true", "false"}[g.IntN(3)]
	case 1:
		text := strings.TrimLeft(strings.TrimLeft(g.number(20), "-"), "0N")
		if text == "" || text[0] < '0' || text[0] > '9' {
			text = "0"
		}
		return text + []string{"", "e5", "E-3", "e+30"}[g.IntN(4)]
	case 2, 3:
		return word()
	}
	var items []string
	for range g.IntN(4) {
		item := g.document(depth - 1)
		if kind > 4 {
			item = word() + " : " + item
		}
		items = append(items, item)
	}
	if kind > 4 {
		return "{" + strings.Join(items, ", ") + "}"
	}
	return "[" + strings.Join(items, ",") + "]"
}
