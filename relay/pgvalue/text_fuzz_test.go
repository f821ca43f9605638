package pgvalue_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// elements cuts a fuzzer's bytes into texts; "\x01" alone is null.
func elements(data []byte) (texts []*string) {
	for _, b := range bytes.Split(data, []byte{0}) {
		if !utf8.Valid(b) || len(texts) == 20 {
			return nil
		}
		if s := string(b); s == "\x01" {
			texts = append(texts, nil)
		} else {
			texts = append(texts, &s)
		}
	}
	return texts
}

// escaped is a text in quotes as PostgreSQL writes it: in composites by
// doubling, elsewhere with backslashes.
func escaped(s, quote, backslash string) string {
	return `"` + strings.NewReplacer(`"`, quote, `\`, backslash).Replace(s) + `"`
}

func addTexts(f *testing.F) {
	for _, s := range []string{"", "a", "\x01", "NULL\x00null\x00\x01\x00 ", "{\x00}\x00,\x00\"\x00\\\x00()\x00=>", "é\x00😀\x00\n", "a\x00b\x00c"} {
		f.Add([]byte(s))
	}
}

// check holds what was printed against encoding/json's reading of it.
func check[T any](t *testing.T, oid uint32, text string, types relay.TypeResolver, equal func(T) bool) {
	t.Helper()
	out := pgvalue.AppendJSON(nil, oid, []byte(text), types)
	var got T
	if err := json.Unmarshal(out, &got); err != nil || !equal(got) {
		t.Fatalf("%q is read as %s: %v", text, out, err)
	}
}

func same(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// FuzzArray_ReadsWhatPostgreSQLWrites writes texts as array_out does, also with
// bounds and in two dimensions, and reads them.
func FuzzArray_ReadsWhatPostgreSQLWrites(f *testing.F) {
	addTexts(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		texts := elements(data)
		if texts == nil {
			return
		}
		var items []string
		for _, s := range texts {
			switch {
			case s == nil:
				items = append(items, "NULL")
			case *s == "" || strings.EqualFold(*s, "NULL") || strings.ContainsAny(*s, "\"\\{}, \t\n\r\v\f"):
				items = append(items, escaped(*s, `\"`, `\\`))
			default:
				items = append(items, *s)
			}
		}
		one := "{" + strings.Join(items, ",") + "}"
		equal := func(got []*string) bool {
			for i := range got {
				if len(got) != len(texts) || !same(got[i], texts[i]) {
					return false
				}
			}
			return true
		}
		check(t, 1009, one, nil, equal)
		check(t, 1009, "[-3:9]="+one, nil, equal)
		check(t, 1009, "{"+one+","+one+"}", nil, func(got [][]*string) bool { return len(got) == 2 && equal(got[0]) && equal(got[1]) })
	})
}

// FuzzComposite_ReadsWhatPostgreSQLWrites writes texts as record_out does,
// within an array too, and reads them.
func FuzzComposite_ReadsWhatPostgreSQLWrites(f *testing.F) {
	addTexts(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		texts := elements(data)
		if texts == nil {
			return
		}
		var items []string
		row := relay.Type{OID: 30000, Kind: 'c'}
		for i, s := range texts {
			row.Fields = append(row.Fields, relay.Column{Name: strings.Repeat("f", i+1), TypeOID: 25})
			switch {
			case s == nil:
				items = append(items, "")
			case *s == "" || strings.ContainsAny(*s, "\"\\(), \t\n\r\v\f"):
				items = append(items, escaped(*s, `""`, `\\`))
			default:
				items = append(items, *s)
			}
		}
		one := "(" + strings.Join(items, ",") + ")"
		equal := func(got map[string]*string) bool {
			for i := range texts {
				if len(got) != len(texts) || !same(got[row.Fields[i].Name], texts[i]) {
					return false
				}
			}
			return true
		}
		rows := types{30000: row, 30001: {OID: 30001, Kind: 'b', Elem: 30000, Delim: ','}}
		check(t, 30000, one, rows, equal)
		check(t, 30001, "{"+escaped(one, `\"`, `\\`)+",NULL}", rows, func(got []map[string]*string) bool {
			return len(got) == 2 && equal(got[0]) && got[1] == nil
		})
	})
}

// FuzzHstore_ReadsWhatPostgreSQLWrites writes texts as hstore_out does.
func FuzzHstore_ReadsWhatPostgreSQLWrites(f *testing.F) {
	addTexts(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		texts := elements(data)
		if texts == nil {
			return
		}
		want := map[string]*string{}
		var items []string
		for i := 0; i+1 < len(texts); i += 2 {
			key, value := texts[i], texts[i+1]
			if key == nil {
				continue
			}
			if _, ok := want[*key]; ok {
				continue // hstore has each key once
			}
			want[*key] = value
			item := escaped(*key, `\"`, `\\`) + "=>NULL"
			if value != nil {
				item = escaped(*key, `\"`, `\\`) + "=>" + escaped(*value, `\"`, `\\`)
			}
			items = append(items, item)
		}
		check(t, hstoreOID, strings.Join(items, ", "), userTypes, func(got map[string]*string) bool {
			for k, v := range want {
				if g, ok := got[k]; !ok || !same(g, v) {
					return false
				}
			}
			return len(got) == len(want)
		})
	})
}
