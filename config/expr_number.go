package config

import (
	"bytes"
	"cmp"
	"math/big"
	"math/bits"
	"strings"

	"github.com/rowhook/rowhook/relay/pgvalue"
)

// numberValue takes a decimal text; short integers lose it, because arithmetic
// and comparison are quicker without.
func numberValue(text []byte) value {
	if n, ok := pgvalue.ParseInt(text); ok {
		return intValue(n)
	}
	return value{kind: kindNumber, text: text}
}

func compareNumber(a, b value) int {
	switch {
	case a.text == nil && b.text == nil:
		return cmp.Compare(a.n, b.n)
	case b.text == nil:
		return pgvalue.CompareNumberToInt(a.text, b.n)
	case a.text == nil:
		return -pgvalue.CompareNumberToInt(b.text, a.n)
	}
	return pgvalue.CompareNumbers(a.text, b.text)
}

func negate(v value) value {
	if v.text == nil && v.n != -v.n {
		return intValue(-v.n)
	}
	if v.text == nil {
		return arithmetic(opSubtract, intValue(0), v)
	}
	if string(v.text) == "NaN" {
		return v
	}
	if v.text[0] == '-' {
		return value{kind: kindNumber, text: v.text[1:]}
	}
	return value{kind: kindNumber, text: append([]byte{'-'}, v.text...)}
}

// divisionPrecision is the precision of HCL's numbers, in bits.
const divisionPrecision = 512

// arithmetic computes with two numbers. Sums, differences, products and
// remainders are exact; a quotient has 512 bits, as HCL's have. It returns
// failed where an operand is no finite number or the divisor is zero.
func arithmetic(op binaryOp, a, b value) value {
	if x, ok := a.int(); ok {
		if y, ok := b.int(); ok {
			if v, ok := intArithmetic(op, x, y); ok {
				return v
			}
		}
	}
	var ab, bb [20]byte
	x, xs, xok := parseScaled(a.number(&ab))
	y, ys, yok := parseScaled(b.number(&bb))
	if !xok || !yok {
		return failed
	}
	if op == opMultiply {
		return scaledValue(x.Mul(x, y), xs+ys)
	}
	for ; xs < ys; xs++ {
		x.Mul(x, ten)
	}
	for ; ys < xs; ys++ {
		y.Mul(y, ten)
	}
	switch op {
	case opAdd:
		return scaledValue(x.Add(x, y), xs)
	case opSubtract:
		return scaledValue(x.Sub(x, y), xs)
	}
	if y.Sign() == 0 {
		return failed
	}
	if op == opModulo {
		return scaledValue(x.Rem(x, y), xs)
	}
	q := new(big.Float).SetPrec(divisionPrecision).Quo(new(big.Float).SetPrec(divisionPrecision).SetInt(x), new(big.Float).SetPrec(divisionPrecision).SetInt(y))
	return numberValue(q.Append(nil, 'f', -1))
}

var ten = big.NewInt(10)

func intArithmetic(op binaryOp, x, y int64) (value, bool) {
	switch op {
	case opAdd:
		sum := x + y
		return intValue(sum), (sum > x) == (y > 0)
	case opSubtract:
		diff := x - y
		return intValue(diff), (diff < x) == (y > 0)
	case opMultiply:
		hi, lo := bits.Mul64(uint64(max(x, -x)), uint64(max(y, -y)))
		return intValue(x * y), hi == 0 && lo < 1<<63
	case opDivide:
		if y != 0 && x%y == 0 {
			return intValue(x / y), true
		}
	case opModulo:
		if y != 0 {
			return intValue(x % y), true
		}
	}
	return value{}, false
}

// maxDigits bounds arithmetic, above what numeric holds (131,072 digits before
// the point and 16,383 after it).
const maxDigits = 150000

// parseScaled returns n and s of a number n / 10^s.
func parseScaled(text []byte) (n *big.Int, scale int, ok bool) {
	if len(text) > maxDigits || !pgvalue.IsNumber(text) {
		return nil, 0, false
	}
	if bytes.ContainsAny(text, "eE") {
		if text, ok = pgvalue.AppendNumber(nil, text); !ok {
			return nil, 0, false
		}
	}
	whole, frac, _ := strings.Cut(string(text), ".")
	n, ok = new(big.Int).SetString(whole+frac, 10)
	return n, len(frac), ok
}

func scaledValue(n *big.Int, scale int) value {
	s := n.Append(nil, 10)
	if scale == 0 {
		return numberValue(s)
	}
	neg := n.Sign() < 0
	if neg {
		s = s[1:]
	}
	for len(s) <= scale { // a digit stands before the point
		s = append([]byte{'0'}, s...)
	}
	out := make([]byte, 0, len(s)+2)
	if neg {
		out = append(out, '-')
	}
	out = append(out, s[:len(s)-scale]...)
	if frac := bytes.TrimRight(s[len(s)-scale:], "0"); len(frac) > 0 {
		out = append(append(out, '.'), frac...)
	}
	return numberValue(out)
}

// round returns the greatest whole number that is not above the number, or
// the least that is not below it.
func round(v value, up bool) value {
	if _, ok := v.int(); ok {
		return v
	}
	n, scale, ok := parseScaled(v.text)
	if !ok {
		if pgvalue.IsSpecial(v.text) {
			return v
		}
		return failed
	}
	unit := new(big.Int).Exp(ten, big.NewInt(int64(scale)), nil)
	q, m := new(big.Int).DivMod(n, unit, new(big.Int))
	if up && m.Sign() != 0 {
		q.Add(q, big.NewInt(1))
	}
	return scaledValue(q, 0)
}
