package pgvalue

import "github.com/rowhook/rowhook/relay"

// Kind is what a type's values are in JSON.
type Kind uint8

// The kinds. Everything PostgreSQL has no JSON form for is Text: strings,
// uuid, date, time, interval, money, bytea, enums, ranges, network addresses.
const (
	Text Kind = iota
	Bool
	Number
	JSON
	Timestamp
	TimestampTZ
	Array
	Vector // int2vector and oidvector: an array by another text form
	Composite
	Hstore
)

// The OIDs of the built-in types that are not Text. They never change.
const (
	boolOID        = 16
	int8OID        = 20
	int2OID        = 21
	int2vectorOID  = 22
	int4OID        = 23
	oidOID         = 26
	oidvectorOID   = 30
	jsonOID        = 114
	boxOID         = 603
	float4OID      = 700
	float8OID      = 701
	timestampOID   = 1114
	timestamptzOID = 1184
	numericOID     = 1700
	jsonbOID       = 3802
)

// builtinArrays maps the array types of pg_type to their elements. The rows of
// system catalogues, which are types too, are not among them: what they consist
// of differs from version to version.
var builtinArrays = map[uint32]uint32{
	143: 142, 199: 114, 271: 5069, 629: 628, 651: 650, 719: 718,
	775: 774, 791: 790, 1000: 16, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1006: 22, 1007: 23, 1008: 24,
	1009: 25, 1010: 27, 1011: 28, 1012: 29, 1013: 30, 1014: 1042, 1015: 1043, 1016: 20, 1017: 600,
	1018: 601, 1019: 602, 1020: 603, 1021: 700, 1022: 701, 1027: 604, 1028: 26, 1034: 1033, 1040: 829,
	1041: 869, 1115: 1114, 1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186, 1231: 1700, 1263: 2275,
	1270: 1266, 1561: 1560, 1563: 1562, 2201: 1790, 2207: 2202, 2208: 2203, 2209: 2204, 2210: 2205,
	2211: 2206, 2949: 2970, 2951: 2950, 3221: 3220, 3643: 3614, 3644: 3642, 3645: 3615, 3735: 3734,
	3770: 3769, 3807: 3802, 3905: 3904, 3907: 3906, 3909: 3908, 3911: 3910, 3913: 3912, 3927: 3926,
	4073: 4072, 4090: 4089, 4097: 4096, 4192: 4191, 5039: 5038, 6150: 4451, 6151: 4532, 6152: 4533,
	6153: 4534, 6155: 4535, 6157: 4536,
}

// builtins maps every type that is known without a catalogue to its elements,
// 0 when it is no array.
var builtins = func() map[uint32]uint32 {
	all := make(map[uint32]uint32, 2*len(builtinArrays))
	for array, elem := range builtinArrays {
		all[array] = elem
		if _, ok := builtinArrays[elem]; !ok {
			all[elem] = 0
		}
	}
	return all
}()

// BuiltIn reports whether the values of a type are read without asking what it
// is. A type that is not, and that the resolver does not know, is Text.
func BuiltIn(typ uint32) bool {
	_, ok := builtins[typ]
	return ok
}

// shape is a type as its values are read.
type shape struct {
	kind   Kind
	elem   uint32         // of an Array or Vector
	delim  byte           // between the elements of an Array
	fields []relay.Column // of a Composite
}

// KindOf returns the kind of a type. A domain has the kind of its base type,
// and a type that types does not know is Text.
func KindOf(typ uint32, types relay.TypeResolver) Kind { return shapeOf(typ, types).kind }

// ElementOf returns the type of the elements of an Array or Vector.
func ElementOf(typ uint32, types relay.TypeResolver) uint32 { return shapeOf(typ, types).elem }

// FieldsOf returns the attributes of a Composite.
func FieldsOf(typ uint32, types relay.TypeResolver) []relay.Column { return shapeOf(typ, types).fields }

func shapeOf(typ uint32, types relay.TypeResolver) shape {
	for range 32 { // domains over domains
		switch typ {
		case boolOID:
			return shape{kind: Bool}
		case int2OID, int4OID, int8OID, float4OID, float8OID, numericOID:
			return shape{kind: Number}
		case jsonOID, jsonbOID:
			return shape{kind: JSON}
		case timestampOID:
			return shape{kind: Timestamp}
		case timestamptzOID:
			return shape{kind: TimestampTZ}
		case int2vectorOID:
			return shape{kind: Vector, elem: int2OID}
		case oidvectorOID:
			return shape{kind: Vector, elem: oidOID}
		}
		switch elem, ok := builtins[typ]; {
		case elem != 0:
			return shape{kind: Array, elem: elem, delim: delimiter(elem, types)}
		case ok || types == nil:
			return shape{}
		}
		t, ok := types.ResolveType(typ)
		switch {
		case !ok:
			return shape{}
		case t.Kind == 'd' && t.Base != 0:
			typ = t.Base
			continue
		case t.Kind == 'c':
			return shape{kind: Composite, fields: t.Fields}
		case t.Elem != 0:
			return shape{kind: Array, elem: t.Elem, delim: delimiter(t.Elem, types)}
		case t.Kind == 'b' && t.Name == "hstore":
			return shape{kind: Hstore}
		}
		return shape{}
	}
	return shape{}
}

// delimiter returns what separates the elements in an array of elem. It is a
// property of the element type, and a comma for all but box.
func delimiter(elem uint32, types relay.TypeResolver) byte {
	if elem == boxOID {
		return ';'
	}
	if types != nil && !BuiltIn(elem) {
		if t, ok := types.ResolveType(elem); ok && t.Delim != 0 {
			return t.Delim
		}
	}
	return ','
}
