package config

import (
	"slices"
	"strings"
)

// Type is what an argument accepts.
type Type string

// The types. The text is what the language reference prints.
const (
	TypeString     Type = "string"
	TypeSecret     Type = "secret string"
	TypeBool       Type = "bool"
	TypeInteger    Type = "whole number"
	TypeNumber     Type = "number"
	TypeDuration   Type = "duration"
	TypeSize       Type = "size"
	TypeStrings    Type = "list of strings"
	TypeSecrets    Type = "list of secret strings"
	TypeSecretMap  Type = "map of secret strings"
	TypeSource     Type = "source"
	TypeExpression Type = "expression"
	// TypeValue and TypeObject are data in a test file. null is a value of them.
	TypeValue  Type = "value"
	TypeObject Type = "object"
)

// secret reports whether what is written for the argument is a secret even as
// a literal.
func (t Type) secret() bool { return t == TypeSecret || t == TypeSecrets || t == TypeSecretMap }

// Block defines a block type: what may stand in it and what that means. The
// decoder obeys it and the language reference is printed from it.
type Block struct {
	// Name is the word the block begins with.
	Name   string
	Labels []Label
	Doc    string
	// Many says that the block may stand several times where it may stand.
	Many bool
	// Free says that the arguments have names of the user's choice. It excludes
	// Arguments.
	Free      bool
	Arguments []Argument
	Blocks    []*Block
}

// Label defines a label of a block.
type Label struct {
	Name string
	// OneOf are the values it may have; empty is any that the block's own code
	// accepts.
	OneOf []string
	Doc   string
}

// Argument defines an argument of a block.
type Argument struct {
	Name     string
	Type     Type
	Required bool
	// Default is an HCL expression; "" is none, and Doc says what then holds.
	Default string
	// OneOf are the strings it accepts; empty is any.
	OneOf []string
	// Min and Max bound a number, a duration in seconds or a size in bytes. Max
	// 0 is no bound.
	Min, Max float64
	// In says where in a block with several forms the argument may stand: the
	// forms of an event are table, channel and message. Empty is in all.
	In  []string
	Doc string
}

// Language returns the definitions of all top-level blocks, in the order of
// the reference. A sink type has a definition of its own.
func Language() []*Block {
	return []*Block{rowhookBlock, sourceBlock, eventBlock, localsBlock, webhookBlock, stdoutBlock}
}

// languageOf returns the language that a block belongs to: that of tests, or
// else that of configurations.
func languageOf(b *Block) []*Block {
	if b == testBlock || slices.Contains(testBlock.Blocks, b) {
		return TestLanguage()
	}
	return Language()
}

// form is how a value of the type is written.
func (t Type) form() string {
	switch t {
	case TypeStrings, TypeSecrets:
		return "[...]"
	case TypeSecretMap, TypeObject:
		return "{ ... }"
	}
	return "..."
}

func (b *Block) argument(name string) *Argument {
	for i := range b.Arguments {
		if b.Arguments[i].Name == name {
			return &b.Arguments[i]
		}
	}
	return nil
}

func (b *Block) block(name string) *Block {
	for _, c := range b.Blocks {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// title names the block with the labels that tell definitions apart:
// `sink "webhook"`.
func (b *Block) title() string {
	if b.Name == "sink" && len(b.Labels[0].OneOf) == 1 {
		return b.Name + ` "` + b.Labels[0].OneOf[0] + `"`
	}
	return b.Name
}

func (b *Block) names() []string {
	var names []string
	for _, a := range b.Arguments {
		names = append(names, a.Name)
	}
	for _, c := range b.Blocks {
		names = append(names, c.Name)
	}
	return names
}

// homeOf says in which other block an argument or block of that name belongs,
// nearest first: blocks inside b, the top level, blocks anywhere. It returns
// "" when there is none.
func homeOf(b *Block, name string) string {
	language := languageOf(b)
	if b != nil {
		for _, c := range b.Blocks {
			if slices.Contains(c.names(), name) {
				return "the " + c.title() + " block inside " + b.title()
			}
		}
	}
	for _, top := range language {
		if top.Name == name && b != nil {
			return "the top level of a file"
		}
	}
	var homes []string
	for _, top := range language {
		if top != b && slices.Contains(top.names(), name) {
			homes = append(homes, article(top.title())+" block")
		}
		for _, c := range top.Blocks {
			if c != b && slices.Contains(c.names(), name) {
				homes = append(homes, "the "+c.title()+" block inside "+top.title())
			}
		}
	}
	return strings.Join(homes, " or ")
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}
