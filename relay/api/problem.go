package api

import (
	"fmt"
	"net/http"
)

// Code is the kind of an [Error], for programs.
type Code string

// The codes. Their HTTP status is in the comment.
const (
	CodeInvalid     Code = "invalid"       // 400: the request makes no sense
	CodeNotFound    Code = "not_found"     // 404: the store has no such thing
	CodeMethod      Code = "method"        // 405
	CodeConflict    Code = "conflict"      // 409: not in the present state
	CodeMisdirected Code = "misdirected"   // 421: the Host header is not ours
	CodeInternal    Code = "internal"      // 500
	CodeUnsupported Code = "not_supported" // 501: not here, or not by this version
	CodeUnavailable Code = "unavailable"   // 503: later, perhaps
	CodeTimeout     Code = "timeout"       // 504
	CodeStoreFull   Code = "store_full"    // 507
)

var statuses = map[Code]int{
	CodeInvalid:     http.StatusBadRequest,
	CodeNotFound:    http.StatusNotFound,
	CodeMethod:      http.StatusMethodNotAllowed,
	CodeConflict:    http.StatusConflict,
	CodeMisdirected: http.StatusMisdirectedRequest,
	CodeInternal:    http.StatusInternalServerError,
	CodeUnsupported: http.StatusNotImplemented,
	CodeUnavailable: http.StatusServiceUnavailable,
	CodeTimeout:     http.StatusGatewayTimeout,
	CodeStoreFull:   http.StatusInsufficientStorage,
}

// Status returns the HTTP status that goes with the code.
func (c Code) Status() int {
	if s := statuses[c]; s != 0 {
		return s
	}
	return http.StatusInternalServerError
}

// Error is what a call answers instead of its response.
type Error struct {
	Code Code
	// Detail says what is wrong, for a person; it holds no secret.
	Detail string
}

// Errorf returns an [Error] with a formatted detail.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Error returns the detail.
func (e *Error) Error() string {
	if e.Detail == "" {
		return string(e.Code)
	}
	return e.Detail
}

// Is reports whether target is an *Error with the same code and no other
// detail, so that errors.Is(err, api.ErrNotFound) works across the wire.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Detail == "" || t.Detail == e.Detail)
}

// Errors that callers branch on, for errors.Is.
var (
	ErrNotFound    = &Error{Code: CodeNotFound}
	ErrInvalid     = &Error{Code: CodeInvalid}
	ErrConflict    = &Error{Code: CodeConflict}
	ErrUnsupported = &Error{Code: CodeUnsupported}
)

// ProblemType is the content type of a [Problem].
const ProblemType = "application/problem+json"

// Problem is an error on the wire, as RFC 9457 has it. Its type is always
// "about:blank": the code says more than an address would.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"` // the HTTP status in words
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   Code   `json:"code"`
}

// Problem returns the wire form of e.
func (e *Error) Problem() Problem {
	s := e.Code.Status()
	return Problem{Type: "about:blank", Title: http.StatusText(s), Status: s, Detail: e.Detail, Code: e.Code}
}
