package webhook

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rowhook/rowhook/relay"
)

// maxAttemptHead bounds what an attempt adds to the head of its request, apart
// from the signatures: five names, an id, three numbers.
const maxAttemptHead = 320

// request is the bytes of an attempt: a head that ends where its body begins,
// in one buffer, so that one write sends both. The head is made after the body,
// whose length and signature it holds, and is put in front of it.
type request struct {
	buf    []byte
	from   int
	head   []byte
	id     []byte
	signer *signer
}

func (s *Sink) newRequest() *request {
	return &request{signer: newSigner(s.keys)}
}

// build makes the request of an attempt that begins now.
func (r *request) build(s *Sink, d *relay.Delivery, now time.Time) {
	if cap(r.buf) < s.headMax {
		r.buf = make([]byte, s.headMax, s.headMax+len(d.Event.Data)+512)
	}
	r.buf = AppendBody(r.buf[:s.headMax], d.Event)
	body := r.buf[s.headMax:]
	seconds := now.Unix()
	r.id = d.Event.ID.Append(r.id[:0])

	h := append(r.head[:0], s.head...)
	h = append(h, HeaderID+": "...)
	h = append(h, r.id...)
	h = append(h, "\r\n"+HeaderTimestamp+": "...)
	h = strconv.AppendInt(h, seconds, 10)
	if len(s.keys) > 0 {
		h = append(h, "\r\n"+HeaderSignature+": "...)
		h = r.signer.sign(h, r.id, seconds, body)
	}
	h = append(h, "\r\n"+HeaderAttempt+": "...)
	h = strconv.AppendInt(h, int64(d.Attempt), 10)
	if d.Replay {
		h = append(h, "\r\n"+HeaderReplay+": true"...)
	}
	h = append(h, "\r\nContent-Length: "...)
	h = strconv.AppendInt(h, int64(len(body)), 10)
	h = append(h, "\r\n\r\n"...)
	r.head = h
	r.from = s.headMax - len(h)
	copy(r.buf[r.from:], h)
}

func (r *request) bytes() []byte { return r.buf[r.from:] }

// target is a URL taken apart.
type target struct {
	secure        bool
	host          string // without brackets
	port          string
	field         string // the Host header
	path          string // with the query
	authorization string
	printable     string
}

// parseTarget takes the URL apart. Its errors do not show it: those of package
// url would.
func parseTarget(secret relay.Secret) (target, error) {
	var t target
	u, err := url.Parse(strings.TrimSpace(secret.Reveal()))
	switch {
	case secret.IsZero():
		return t, errors.New("url is empty")
	case err != nil:
		return t, errors.New("url is malformed; write http:// or https://, a host and a path")
	case u.Scheme != "http" && u.Scheme != "https":
		return t, errors.New("url does not begin with http:// or https://")
	case u.Hostname() == "":
		return t, errors.New("url has no host")
	case u.Fragment != "":
		return t, errors.New("url has a fragment (#...), which is never sent; write %23 for a # that belongs to it")
	}
	t.secure = u.Scheme == "https"
	t.host, t.port = u.Hostname(), u.Port()
	for _, c := range []byte(t.host) {
		if c <= ' ' || c >= 0x7f {
			return t, errors.New("url has a host that is not ASCII; write its xn-- form")
		}
	}
	if t.port != "" {
		if n, err := strconv.ParseUint(t.port, 10, 16); err != nil || n == 0 {
			return t, errors.New("url has a port that is not between 1 and 65535")
		}
	}
	t.field = t.host
	if strings.Contains(t.host, ":") {
		bare, _, _ := strings.Cut(t.host, "%") // a zone means nothing to the other side
		t.field = "[" + bare + "]"
	}
	if t.port != "" {
		t.field += ":" + t.port
	} else if t.port = "80"; t.secure {
		t.port = "443"
	}
	t.path = u.RequestURI()
	for _, c := range []byte(t.path) {
		if c <= ' ' || c >= 0x7f {
			return t, errors.New("url has a space or a character that is not ASCII in its query; percent-encode it")
		}
	}
	t.printable = u.Scheme + "://" + t.field
	if t.path != "/" {
		t.printable += "/..."
	}
	if u.User != nil {
		password, _ := u.User.Password()
		t.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	return t, nil
}

// appendHead appends the beginning of every request's head.
func (t *target) appendHead(dst []byte, agent string, headers []string) []byte {
	dst = append(dst, "POST "...)
	dst = append(dst, t.path...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, t.field...)
	dst = append(dst, "\r\nUser-Agent: "...)
	dst = append(dst, agent...)
	dst = append(dst, "\r\nContent-Type: application/json\r\n"...)
	if t.authorization != "" {
		dst = append(dst, "Authorization: "...)
		dst = append(dst, t.authorization...)
		dst = append(dst, "\r\n"...)
	}
	for _, h := range headers {
		dst = append(dst, h...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// ownHeaders are those that configuration must not set: what frames the
// message, what the format says, and what intermediaries act on.
var ownHeaders = []string{
	"connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive",
	"proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
}

// checkHeaders returns the lines of the configured headers, sorted. All errors
// are joined; they show names and never values.
func checkHeaders(headers map[string]relay.Secret, authorized bool) ([]string, error) {
	var lines []string
	var errs []error
	seen := map[string]bool{}
	for name, value := range headers {
		lower := strings.ToLower(name)
		switch {
		case !isToken(name):
			errs = append(errs, fmt.Errorf("header %q is not a header name", name))
		case seen[lower]:
			errs = append(errs, fmt.Errorf("header %q is set twice", lower))
		case slices.Contains(ownHeaders, lower) || strings.HasPrefix(lower, "webhook-") || strings.HasPrefix(lower, "rowhook-"):
			errs = append(errs, fmt.Errorf("header %q cannot be set: Rowhook sets it, or it would break the request", name))
		case lower == "authorization" && authorized:
			errs = append(errs, errors.New(`header "authorization" is set, and the url has a user too; remove one of them`))
		case !isFieldValue(value.Reveal()):
			errs = append(errs, fmt.Errorf("header %q has a value with a control character", name))
		default:
			lines = append(lines, name+": "+value.Reveal())
		}
		seen[lower] = true
	}
	slices.Sort(lines)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return lines, errors.Join(errs...)
}

// isFieldValue reports whether s can stand in a header: control characters
// could end it, and begin another one.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func (cfg *Config) roots() (*x509.CertPool, error) {
	if cfg.CAFile == "" {
		return nil, nil
	}
	return readRoots(cfg.CAFile)
}
