package config

import (
	"strconv"

	"github.com/rowhook/rowhook/config/contract"
	"github.com/rowhook/rowhook/relay/pgvalue"
)

// misfit holds a JSON value against a type of a schema. It returns a sentence
// without the value, which may be personal, and "" when it fits. Attributes
// that an object of the schema does not name are let through.
func (f *frame) misfit(t contract.Type, tok []byte, path string) string {
	if t.Dynamic() && (t.Kinds&isNull != 0 || tok[0] != 'n') {
		return ""
	}
	v := f.fromToken(tok)
	have, want := v.kinds(), t.Kinds
	if have == isString && want&isNumber != 0 && want&isString == 0 && f.printer.NumbersAsString && pgvalue.IsNumber(v.text) {
		v, have = numberValue(v.text), isNumber
	}
	if have&want == 0 {
		return path + " is " + have.String() + ", and the schema says " + t.String()
	}
	no := path + " is not " + t.String() + ", as the schema says"
	switch have {
	case isNumber:
		if whole := round(v, false); t.Integer && (whole.kind == kindFailed || compareNumber(v, whole) != 0) {
			return no
		}
	case isString:
		if !contract.Has(t, string(v.text)) {
			return no
		}
	case isList:
		if t.Elem == nil {
			return ""
		}
		for r, i := readJSON(v.text), 0; r.next(); i++ {
			if why := f.misfit(*t.Elem, r.val, path+"["+strconv.Itoa(i)+"]"); why != "" {
				return why
			}
		}
	case isObject:
		return f.misfitObject(t, v.text, path)
	}
	return ""
}

func (f *frame) misfitObject(t contract.Type, object []byte, path string) string {
	for i := range t.Fields {
		field := &t.Fields[i]
		tok := member(object, field.Name)
		switch {
		case tok != nil:
			if why := f.misfit(field.Type, tok, path+"."+field.Name); why != "" {
				return why
			}
		case !field.Optional:
			return path + "." + field.Name + " is left out, and the schema does not say that it is optional"
		}
	}
	if t.Rest == nil {
		return ""
	}
	for r := readJSON(object); r.next(); {
		name := string(pgvalue.AppendUnquoted(nil, r.key))
		if t.Field(name) == nil {
			if why := f.misfit(*t.Rest, r.val, path+"."+name); why != "" {
				return why
			}
		}
	}
	return ""
}
