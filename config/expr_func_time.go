package config

import (
	"errors"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// The functions of time work on values that are given. There is none that asks
// for the time, and none that knows time zones by their names, because the
// tables of these are another on every machine.
var timeFunctions = []*exprFunc{
	{name: "formatdate", params: []param{{"format", isString}, {"time", isString}}, validate: validDateFormat, result: isString, doc: "The time in a form of its own: YYYY, MM, DD, hh, mm, ss, EEE for the day of the week, ZZZZZ for the offset; letters that are meant as they are stand in single quotes. The time is RFC 3339, as timestamps are in data; without an offset it is UTC, without a time of day midnight.", run: runFormatDate},
	{name: "timeadd", params: []param{{"time", isString}, {"duration", isString}}, result: isString, doc: "The time some duration later, as in \"90m\" or \"-24h\".", run: runTimeAdd},
	{name: "unixtime", params: one("time", isString), result: isNumber, doc: "The seconds between 1970 and the time, with their fraction.", run: runUnixTime},
	{name: "fromunixtime", params: one("seconds", isNumber), result: isString, doc: "The time that many seconds after 1970, to the microsecond, in UTC.", run: runFromUnixTime},
}

// timeForms are the forms in which times come out of PostgreSQL and out of
// other programs' JSON.
var timeForms = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", time.DateOnly}

// timeOf reads the time of a string. It fails with the name of the function.
func (f *frame) timeOf(c *callNode, v value) (time.Time, bool) {
	for _, form := range timeForms {
		if t, err := time.Parse(form, string(v.text)); err == nil {
			return t, true
		}
	}
	f.fail(c.rng, c.fn.name+"() needs a time such as 2026-01-31T09:30:00Z, or a day such as 2026-01-31, and "+describe(c.args[len(c.args)-1])+" is none; guard it with try()")
	return time.Time{}, false
}

func formatDate(spec string, t time.Time) (string, error) {
	v, err := stdlib.FormatDate(cty.StringVal(spec), cty.StringVal(t.Format(time.RFC3339)))
	if err != nil {
		return "", err
	}
	return v.AsString(), nil
}

func validDateFormat(spec string) error {
	_, err := formatDate(spec, time.Unix(0, 0).UTC())
	return err
}

func runFormatDate(f *frame, c *callNode, a []value) value {
	t, ok := f.timeOf(c, a[1])
	if !ok {
		return failed
	}
	s, err := formatDate(string(a[0].text), t)
	if err != nil {
		return f.fail(c.rng, "formatdate(): "+err.Error())
	}
	return text(f, s)
}

func runTimeAdd(f *frame, c *callNode, a []value) value {
	d, err := time.ParseDuration(string(a[1].text))
	if err != nil {
		return f.fail(c.rng, `timeadd() needs a duration such as "90m" or "-24h"`)
	}
	for _, form := range timeForms {
		if t, err := time.Parse(form, string(a[0].text)); err == nil {
			return text(f, t.Add(d).Format(time.RFC3339Nano))
		}
	}
	return f.fail(c.rng, "timeadd() needs a time such as 2026-01-31T09:30:00Z, and "+describe(c.args[0])+" is none; guard it with try()")
}

func runUnixTime(f *frame, c *callNode, a []value) value {
	t, ok := f.timeOf(c, a[0])
	if !ok {
		return failed
	}
	v := arithmetic(opDivide, intValue(int64(t.Nanosecond())), intValue(int64(time.Second)))
	return f.kept(arithmetic(opAdd, intValue(t.Unix()), v))
}

// kept moves the text of a number into memory of the frame.
func (f *frame) kept(v value) value {
	if v.text != nil {
		v.text = f.keep(v.text)
	}
	return v
}

// maxSeconds is the end of the year 9999, the last that RFC 3339 has.
const maxSeconds = 253402300799

func runFromUnixTime(f *frame, c *callNode, a []value) value {
	t, err := unixTime(a[0])
	if err != nil {
		return f.fail(c.rng, "fromunixtime() needs the seconds of a time in the years 0 to 9999")
	}
	return text(f, t.Format(time.RFC3339Nano))
}

func unixTime(seconds value) (time.Time, error) {
	if compareNumber(seconds, intValue(-62167219200)) < 0 || compareNumber(seconds, intValue(maxSeconds)) > 0 {
		return time.Time{}, errors.New("out of range")
	}
	micros := arithmetic(opMultiply, seconds, intValue(1_000_000))
	if micros.kind == kindFailed {
		return time.Time{}, errors.New("not a number")
	}
	if micros.text != nil {
		whole, _, _ := strings.Cut(string(micros.text), ".")
		micros = numberValue([]byte(whole))
	}
	n, ok := micros.int()
	if !ok {
		return time.Time{}, errors.New("out of range")
	}
	return time.UnixMicro(n).UTC(), nil
}
