package pgvalue

import (
	"bytes"
	"cmp"
	"math"
	"strconv"
)

// maxExpanded bounds the exponent of a number that is written out in digits.
// The largest of a double precision is 308.
const maxExpanded = 400

// IsNumber reports whether b is a number as JSON writes it, which is also how
// PostgreSQL prints every number but NaN and the infinities.
func IsNumber(b []byte) bool {
	end, ok := skipNumber(b, 0)
	return ok && end == len(b)
}

// IsSpecial reports whether b is a number of PostgreSQL that JSON does not
// have.
func IsSpecial(b []byte) bool {
	switch string(b) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	return false
}

// AppendNumber appends a number in digits, without an exponent, as
// PostgreSQL's numeric prints it. It returns false, and dst as it was, when b
// is not a number or its exponent is beyond any that PostgreSQL prints.
func AppendNumber(dst, b []byte) ([]byte, bool) {
	e := bytes.IndexByte(b, 'e')
	if e < 0 {
		e = bytes.IndexByte(b, 'E')
	}
	if !IsNumber(b) {
		return dst, false
	}
	if e < 0 {
		if len(b) == 2 && b[0] == '-' && b[1] == '0' {
			b = b[1:]
		}
		return append(dst, b...), true
	}
	d, ok := parseDecimal(b)
	if !ok || d.exp > maxExpanded || d.exp < -maxExpanded {
		return dst, false
	}
	if len(d.whole) == 0 && len(d.frac) == 0 {
		return append(dst, '0'), true
	}
	if d.neg {
		dst = append(dst, '-')
	}
	point := len(d.whole) + d.exp // digits before the point
	n := len(d.whole) + len(d.frac)
	if point <= 0 {
		dst = append(dst, '0', '.')
		for ; point < 0; point++ {
			dst = append(dst, '0')
		}
		for i := range n {
			dst = append(dst, d.digit(i))
		}
		return dst, true
	}
	first := 0 // leading zeros of 0.0123e4 are not printed
	for first < n && first < point-1 && d.digit(first) == '0' {
		first++
	}
	for i := first; i < max(n, point); i++ {
		if i == point {
			dst = append(dst, '.')
		}
		dst = append(dst, d.digit(i))
	}
	return dst, true
}

// decimal is a number taken apart: whole.frac * 10^exp. whole has no leading
// and frac no trailing zeros.
type decimal struct {
	neg         bool
	whole, frac []byte
	exp         int
}

// digit returns the i-th digit of whole and frac together, zero beyond them.
func (d *decimal) digit(i int) byte {
	if i < len(d.whole) {
		return d.whole[i]
	}
	if i -= len(d.whole); i < len(d.frac) {
		return d.frac[i]
	}
	return '0'
}

func parseDecimal(b []byte) (d decimal, ok bool) {
	if len(b) > 0 && b[0] == '-' {
		d.neg = true
		b = b[1:]
	}
	if e := bytes.IndexAny(b, "eE"); e >= 0 {
		neg := false
		for i, c := range b[e+1:] {
			if i == 0 && (c == '+' || c == '-') {
				neg = c == '-'
				continue
			}
			if d.exp > 1<<40 {
				return d, false
			}
			d.exp = d.exp*10 + int(c-'0')
		}
		if neg {
			d.exp = -d.exp
		}
		b = b[:e]
	}
	d.whole = b
	if p := bytes.IndexByte(b, '.'); p >= 0 {
		d.whole, d.frac = b[:p], b[p+1:]
	}
	for len(d.whole) > 0 && d.whole[0] == '0' {
		d.whole = d.whole[1:]
	}
	for len(d.frac) > 0 && d.frac[len(d.frac)-1] == '0' {
		d.frac = d.frac[:len(d.frac)-1]
	}
	return d, true
}

// ParseInt returns the value of a number that is a plain integer of at most 18
// digits.
func ParseInt(b []byte) (int64, bool) {
	digits := b
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		if c -= '0'; c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	if neg {
		n = -n
	}
	return n, true
}

// CompareNumbers compares two numbers by value, exactly, and returns -1, 0 or
// +1. As in PostgreSQL, NaN equals itself and is greater than everything else.
func CompareNumbers(a, b []byte) int {
	if x, xs, ok := parseFixed(a); ok {
		if y, ys, ok := parseFixed(b); ok {
			if c, ok := compareFixed(x, xs, y, ys); ok {
				return c
			}
		}
	}
	return compareDecimals(a, b)
}

// CompareNumberToInt compares a number with an integer.
func CompareNumberToInt(a []byte, n int64) int {
	if x, scale, ok := parseFixed(a); ok {
		if c, ok := compareFixed(x, scale, n, 0); ok {
			return c
		}
	}
	var buf [20]byte
	return compareDecimals(a, strconv.AppendInt(buf[:0], n, 10))
}

// parseFixed returns n and scale of a number n / 10^scale that has at most 18
// digits and no exponent, which nearly all have.
func parseFixed(b []byte) (n int64, scale int, ok bool) {
	i := 0
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		i = 1
	}
	if len(b)-i > 18 || len(b) == i {
		return 0, 0, false
	}
	for ; i < len(b); i++ {
		c := b[i] - '0'
		if c > 9 {
			if b[i] != '.' || scale > 0 {
				return 0, 0, false
			}
			scale = len(b) - i - 1
			continue
		}
		n = n*10 + int64(c)
	}
	if neg {
		n = -n
	}
	return n, scale, true
}

var powers = func() (p [19]int64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

func compareFixed(x int64, xs int, y int64, ys int) (c int, ok bool) {
	if xs < ys {
		c, ok = compareFixed(y, ys, x, xs)
		return -c, ok
	}
	if xs > ys {
		p := powers[xs-ys]
		if y > math.MaxInt64/p || y < math.MinInt64/p {
			return 0, false
		}
		y *= p
	}
	return cmp.Compare(x, y), true
}

func compareDecimals(a, b []byte) int {
	if r, s := rank(a), rank(b); r != 0 || s != 0 {
		return cmp.Compare(r, s)
	}
	x, xok := parseDecimal(a)
	y, yok := parseDecimal(b)
	if !xok || !yok {
		return bytes.Compare(a, b) // exponents of more than twelve digits
	}
	xs, ys := x.sign(), y.sign()
	if xs != ys || xs == 0 {
		return cmp.Compare(xs, ys)
	}
	return xs * x.compareAbs(&y)
}

// rank orders the numbers that have no digits around those that do.
func rank(b []byte) int {
	switch string(b) {
	case "-Infinity":
		return -1
	case "Infinity":
		return 1
	case "NaN":
		return 2
	}
	return 0
}

func (d *decimal) sign() int {
	for i := range len(d.whole) + len(d.frac) {
		if d.digit(i) != '0' {
			if d.neg {
				return -1
			}
			return 1
		}
	}
	return 0
}

// compareAbs compares the absolute values of two numbers that are not zero.
func (d *decimal) compareAbs(o *decimal) int {
	df, of := d.first(), o.first()
	// The place of the first digit that is not zero decides first.
	if c := cmp.Compare(len(d.whole)+d.exp-df, len(o.whole)+o.exp-of); c != 0 {
		return c
	}
	n := max(len(d.whole)+len(d.frac)-df, len(o.whole)+len(o.frac)-of)
	for i := range n {
		if c := cmp.Compare(d.digit(df+i), o.digit(of+i)); c != 0 {
			return c
		}
	}
	return 0
}

// first returns the index of the first digit that is not zero.
func (d *decimal) first() int {
	i := 0
	for d.digit(i) == '0' {
		i++
	}
	return i
}
