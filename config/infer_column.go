package config

import (
	"math/big"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// The built-in types of which more is known than their kind in JSON. Their
// OIDs never change.
const (
	int8OID, int2OID, int4OID   = 20, 21, 23
	float4OID, float8OID        = 700, 701
	bpcharOID, varcharOID       = 1042, 1043
	dateOID, numericOID         = 1082, 1700
	timestampOID, timestamptOID = 1114, 1184
	uuidOID                     = 2950
)

// typeModOffset is VARHDRSZ, which PostgreSQL adds to the length in the type
// modifier of strings and to the modifier of numerics.
const typeModOffset = 4

// columnType returns the type of a column's values as JSON has them.
func columnType(t *relay.Table, i int) contract.Type {
	c := t.Columns[i]
	typ := valueType(c.TypeOID, c.TypeMod, t.Types, 0)
	if len(t.Dims) > i && pgvalue.KindOf(c.TypeOID, t.Types) == pgvalue.Array {
		// PostgreSQL does not hold an array to the dimensions it was declared with,
		// but people do. Where they are not known (LIKE, domains) it may be any.
		if t.Dims[i] == 0 {
			typ.Elem = nil
		}
		for range t.Dims[i] - 1 {
			typ = contract.ListOf(typ)
		}
	}
	if len(t.NotNull) <= i || !t.NotNull[i] && !notNullDomain(c.TypeOID, t.Types) {
		return typ.Nullable()
	}
	return typ
}

func notNullDomain(oid uint32, types relay.TypeResolver) bool {
	for range 32 { // domains over domains
		d, ok := resolve(oid, types)
		if !ok || d.Kind != 'd' {
			return false
		}
		if d.NotNull {
			return true
		}
		oid = d.Base
	}
	return false
}

func resolve(oid uint32, types relay.TypeResolver) (relay.Type, bool) {
	if types == nil {
		return relay.Type{}, false
	}
	return types.ResolveType(oid)
}

// valueType returns the type of a PostgreSQL type's values, without null.
// Composite types may be nested, but not in themselves; depth is a guard
// against a resolver that says otherwise.
func valueType(oid uint32, typmod int32, types relay.TypeResolver, depth int) contract.Type {
	if depth > 16 {
		return contract.Any().NotNull()
	}
	switch pgvalue.KindOf(oid, types) {
	case pgvalue.Bool:
		return contract.Of(isBool)
	case pgvalue.Number:
		return numberType(oid, typmod, types)
	case pgvalue.JSON:
		return contract.Any() // also null: the JSON one
	case pgvalue.Timestamp:
		return contract.Formatted(contract.LocalTimestamp)
	case pgvalue.TimestampTZ:
		return contract.Formatted(contract.Timestamp)
	case pgvalue.Array:
		return contract.ListOf(valueType(pgvalue.ElementOf(oid, types), typmod, types, depth+1).Nullable())
	case pgvalue.Vector:
		return contract.ListOf(contract.Of(isNumber))
	case pgvalue.Composite:
		o := contract.ObjectOf()
		for _, f := range pgvalue.FieldsOf(oid, types) {
			o.Fields = append(o.Fields, contract.Field{Name: f.Name, Type: valueType(f.TypeOID, f.TypeMod, types, depth+1).Nullable()})
		}
		return o
	case pgvalue.Hstore:
		return contract.MapOf(contract.Of(isString | isNull))
	}
	return textType(oid, typmod, types)
}

// baseType returns the type under domains.
func baseType(oid uint32, types relay.TypeResolver) uint32 {
	for range 32 {
		d, ok := resolve(oid, types)
		if !ok || d.Kind != 'd' {
			break
		}
		oid = d.Base
	}
	return oid
}

func numberType(oid uint32, typmod int32, types relay.TypeResolver) contract.Type {
	switch baseType(oid, types) {
	case int2OID:
		return contract.Whole(-1<<15, 1<<15-1)
	case int4OID:
		return contract.Whole(-1<<31, 1<<31-1)
	case int8OID:
		return contract.Whole(-1<<63, 1<<63-1)
	case float4OID, float8OID:
		t := contract.Of(isNumber)
		t.NaN, t.Infinite = true, true
		return t
	}
	t := contract.Of(isNumber)
	t.NaN, t.Infinite = true, true
	if mod := typmod - typeModOffset; oid == numericOID && mod >= 0 {
		precision, scale := int64(mod>>16&0xffff), int64((mod&0x7ff)^1024)-1024
		t.Infinite = false // a numeric of a precision has NaN, and no infinities
		t.Integer = scale <= 0
		limit := powerOfTen(precision - scale)
		t.Max = new(big.Rat).Sub(limit, powerOfTen(-scale))
		t.Min = new(big.Rat).Neg(t.Max)
	}
	return t
}

func powerOfTen(n int64) *big.Rat {
	abs := n
	if n < 0 {
		abs = -n
	}
	p := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(abs), nil))
	if n < 0 {
		return p.Inv(p)
	}
	return p
}

func textType(oid uint32, typmod int32, types relay.TypeResolver) contract.Type {
	base := baseType(oid, types)
	switch base {
	case uuidOID:
		return contract.Formatted(contract.UUID)
	case dateOID:
		return contract.Formatted(contract.Date)
	case bpcharOID, varcharOID:
		t := contract.Of(isString)
		if n := int(typmod - typeModOffset); oid == base && n > 0 {
			t.MaxLength = n
			if base == bpcharOID {
				t.MinLength = n // padded with blanks
			}
		}
		return t
	}
	if e, ok := resolve(base, types); ok && e.Kind == 'e' && len(e.Labels) > 0 {
		return contract.OneOf(e.Labels...)
	}
	return contract.Of(isString)
}

// The row of a table's values at a side of the change, for the operations that
// are possible. A row that is not there is one of nulls. t may be nil: then
// nothing is known of the columns.

func (c *checker) columnAt(s side, name string, ops relay.Ops) contract.Type {
	typ := contract.Any()
	i := -1
	if c.t != nil {
		if i = c.t.Column(name); i >= 0 {
			typ = columnType(c.t, i)
		}
	}
	there, absent := presence(s, ops)
	switch {
	case !there && !absent:
		return typ // no operation is left: the place is never reached
	case !there:
		return contract.Of(isNull)
	case absent:
		typ = typ.Nullable()
	}
	if i >= 0 && s != sideOld && ops.Has(relay.Update) && c.t.Unsent(i) && !tooShort(c.t.Columns[i]) {
		typ.Unsent = []string{name}
	}
	return typ
}

// presence says whether with the operations the row may be there, and whether
// it may be absent.
func presence(s side, ops relay.Ops) (there, absent bool) {
	has := func(ops relay.Ops, list ...relay.Op) bool { return ops&relay.OpsOf(list...) != 0 }
	switch s {
	case sideNew:
		return has(ops, relay.Insert, relay.Update, relay.Read), has(ops, relay.Delete, relay.Truncate)
	case sideOld:
		return has(ops, relay.Update, relay.Delete), has(ops, relay.Insert, relay.Read, relay.Truncate)
	}
	return has(ops, relay.Insert, relay.Update, relay.Read, relay.Delete), has(ops, relay.Truncate)
}

// rowAt is the whole row. Of an old row the columns outside the replica
// identity are left out.
func (c *checker) rowAt(s side, ops relay.Ops) contract.Type {
	if c.t == nil {
		return contract.Of(isObject)
	}
	o := contract.ObjectOf()
	for i := range c.t.Columns {
		if c.isGenerated(i) {
			continue
		}
		name := c.t.Columns[i].Name
		f := contract.Field{Name: name, Type: c.columnAt(s, name, ops)}
		f.Optional = len(f.Type.Unsent) > 0 || !c.t.OldKnown(i) && (s == sideOld && ops&relay.OpsOf(relay.Update, relay.Delete) != 0 || s == sideRow && ops.Has(relay.Delete))
		o.Fields = append(o.Fields, f)
	}
	return o
}

func (c *checker) isGenerated(i int) bool { return len(c.t.Generated) > i && c.t.Generated[i] != 0 }

// tooShort reports a column whose values are never stored out of line: with a
// header they are no longer than the pointer that would stand for them (24
// bytes, of at most four a character).
func tooShort(c relay.Column) bool { return maxBytes(c) > 0 && maxBytes(c)+1 <= 24 }

// toastThreshold is about TOAST_TUPLE_THRESHOLD: a row that is shorter keeps
// all its values.
const toastThreshold = 2000

// maxBytes returns the length of the column's longest value, 0 without one.
func maxBytes(c relay.Column) int {
	if c.TypeOID == varcharOID || c.TypeOID == bpcharOID {
		return max(0, 4*int(c.TypeMod-typeModOffset))
	}
	return 0
}
