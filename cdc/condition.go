package cdc

import (
	"fmt"
	"strings"
)

// checkCondition refuses what would not stay within the parentheses in which the
// server gets it: a comment, a parenthesis too many, the beginning of another
// statement, a parameter. What a condition means is the server's to judge.
func checkCondition(sql string) error {
	refuse := func(what string) error {
		return &SetupError{Summary: fmt.Sprintf("the condition %q has %s", sql, what), Detail: "write one SQL expression, as after WHERE"}
	}
	depth := 0
	for i := 0; i < len(sql); {
		rest := sql[i:]
		switch c := sql[i]; {
		case c == '\'' || c == '"':
			if c == '\'' && i > 0 && (sql[i-1] == 'e' || sql[i-1] == 'E') && (i == 1 || !identifierByte(sql[i-2])) {
				return refuse("an escape string, E'...'")
			}
			n := quoted(rest, c)
			if n == 0 {
				return refuse("a quote without its end")
			}
			i += n
			continue
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth < 0 {
				return refuse("a closing parenthesis too many")
			}
		case strings.HasPrefix(rest, "--") || strings.HasPrefix(rest, "/*"):
			return refuse("a comment")
		case c == ';':
			return refuse("a semicolon")
		case c == '$':
			return refuse("a dollar sign outside quotes")
		case c == 0:
			return refuse("a zero byte")
		}
		i++
	}
	if depth > 0 {
		return refuse("an opening parenthesis too many")
	}
	return nil
}

func identifierByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// quoted returns the length of the quoted text that s begins with, 0 when it
// does not end. A doubled quote is one within it.
func quoted(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == 0:
			return 0
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			i++
		case s[i] == quote:
			return i + 1
		}
	}
	return 0
}
