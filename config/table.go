package config

import (
	"strings"
	"unicode/utf8"

	"github.com/rowhook/rowhook/relay"
)

// parseTable reads the name of a table: schema and table, split at the first
// dot outside quotes. Names are literal, case and all; a part that has a dot
// itself stands in double quotes, as in SQL. The problem, when there is one,
// is a sentence that says what to write.
func parseTable(s string) (name relay.TableName, problem string) {
	schema, rest, problem := tablePart(s, true)
	if problem != "" {
		return name, problem
	}
	if rest == "" {
		if !strings.HasSuffix(s, ".") {
			return name, `A table is named with its schema. Write "public.` + escapeHCL(s) + `" if it is in the schema public.`
		}
		return name, "The name of the table is missing after the dot."
	}
	table, _, problem := tablePart(rest, false)
	if problem != "" {
		return name, problem
	}
	switch {
	case schema == "":
		return name, "The name of the schema is empty."
	case table == "":
		return name, "The name of the table is empty."
	case len(schema) > maxIdentifier || len(table) > maxIdentifier:
		return name, "PostgreSQL names have at most 63 bytes, so there is no such table."
	case strings.ContainsRune(s, 0) || !utf8.ValidString(s):
		return name, "PostgreSQL names are UTF-8 text without zero bytes, so there is no such table."
	}
	return relay.TableName{Schema: schema, Name: table}, ""
}

// tablePart reads one part of a name. The first part ends at a dot, the last
// one at the end: a dot in an unquoted table name belongs to it.
func tablePart(s string, first bool) (part, rest, problem string) {
	if !strings.HasPrefix(s, `"`) {
		if !first {
			return s, "", ""
		}
		part, rest, _ = strings.Cut(s, ".")
		return part, rest, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		rest = s[i+1:]
		switch {
		case rest == "":
			return b.String(), "", ""
		case first && rest[0] == '.':
			return b.String(), rest[1:], ""
		}
		return "", "", "After the closing quote comes a dot or the end of the name."
	}
	return "", "", "The quote in the name is not closed."
}

// writeTable writes a name so that parseTable reads it again.
func writeTable(t relay.TableName) string {
	schema, table := t.Schema, t.Name
	if strings.ContainsAny(schema, `."`) {
		schema = `"` + strings.ReplaceAll(schema, `"`, `""`) + `"`
	}
	if strings.HasPrefix(table, `"`) {
		table = `"` + strings.ReplaceAll(table, `"`, `""`) + `"`
	}
	return schema + "." + table
}

// escapeHCL writes a text as it stands between the quotes of an HCL string.
func escapeHCL(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "${", "$${", "%{", "%%{").Replace(s)
}
