package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
)

// hash is a digest of what decides which events the rule makes: not of its
// description, nor of layout and comments. It covers the expressions as they
// are written, with the locals they need, so that a change anywhere changes
// it; that two ways of writing one thing differ costs nothing but a half-stored
// transaction stored anew.
func (e *evaluator) hash(r *rule, scope exprScope, exprs [len(expressionNames)]hclsyntax.Expression, reached []*local) string {
	h := sha256.New()
	tables := slices.Clone(r.Tables)
	slices.SortFunc(tables, func(a, b relay.TableName) int {
		return slices.Compare([]string{a.Schema, a.Name}, []string{b.Schema, b.Name})
	})
	for _, t := range tables {
		fmt.Fprintf(h, "%q %q, ", t.Schema, t.Name)
	}
	fmt.Fprintf(h, "%d %q %q %d %q %d %q %q %t %t %t %t", LanguageVersion, r.Name, r.Type, r.Version, r.Source, r.Ops, r.Channel, r.Message, r.NonTransactional, r.Barrier, scope.payloadText, scope.numbersAsString)
	if scope.schema != nil {
		fmt.Fprintf(h, " schema %s", contract.Signature(scope.schema.typ))
	}
	if r.OnError != relay.OnErrorContinue {
		fmt.Fprintf(h, " on_error %d", r.OnError) // a reload that changes it alone has to be one
	}
	for i, x := range exprs {
		fmt.Fprintf(h, " %d:", i)
		if x != nil {
			e.hashTokens(h, x.Range())
		}
	}
	for _, l := range slices.SortedFunc(slices.Values(reached), func(a, b *local) int { return slices.Compare([]string{a.name}, []string{b.name}) }) {
		fmt.Fprintf(h, " local %q:", l.name)
		e.hashTokens(h, l.expr.Range())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hashTokens adds the tokens of an expression. A line break counts as much as
// the comma that may stand for it.
func (e *evaluator) hashTokens(h hash.Hash, at hcl.Range) {
	src := at.SliceBytes(e.files.files[at.Filename].Bytes)
	tokens, _ := hclsyntax.LexExpression(src, at.Filename, at.Start) // it has been parsed before
	newline := false
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenComment, hclsyntax.TokenNewline, hclsyntax.TokenEOF:
			newline = newline || bytes.HasSuffix(t.Bytes, []byte("\n")) // a # comment ends with its line break
			continue
		}
		fmt.Fprintf(h, "%t%q%q", newline, string(rune(t.Type)), t.Bytes)
		newline = false
	}
}
