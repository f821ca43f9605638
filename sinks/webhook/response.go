package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
)

// The bounds of an answer.
const (
	maxHead    = 32 << 10 // bytes of one head
	maxHeaders = 128
	maxInterim = 8        // 1xx answers before the real one
	maxBody    = 64 << 10 // bytes of the body, with its chunk framing, before the connection is given up
	maxKept    = 4 << 10  // bytes of the body kept of a failed attempt
	maxLine    = 256      // bytes of a chunk size or trailer line
	smallBuf   = 4 << 10  // size of a read buffer that a kept connection holds on to
)

// protocolError says what of an answer is not HTTP/1.1.
type protocolError string

func (e protocolError) Error() string { return "not an HTTP/1.1 answer: " + string(e) }

// errBodyBound stops the reading of a body that is too long to be worth it.
var errBodyBound = errors.New("body is longer than what is read of it")

// response is an answer.
type response struct {
	status     int
	retryAfter string
	// kept is the beginning of the body of an answer that is no success.
	kept []byte
	// reusable says that the connection stands at the end of the answer.
	reusable bool
}

// head is what matters of the head of an answer.
type head struct {
	status     int
	length     int64 // -1 when unknown
	chunked    bool
	close      bool
	retryAfter string
}

// reader buffers what comes from a connection.
type reader struct {
	src  io.Reader
	buf  []byte // buf[r:w] is unread
	r, w int
	any  bool // something has come
}

// room makes space for more and returns it. No part of an answer that must be
// seen whole is longer than maxHead.
func (rd *reader) room() ([]byte, error) {
	switch {
	case rd.r == rd.w:
		rd.r, rd.w = 0, 0
	case rd.w == len(rd.buf) && rd.r > 0:
		rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r = 0
	}
	if rd.w == len(rd.buf) {
		if len(rd.buf) >= maxHead {
			return nil, protocolError(fmt.Sprintf("its head is longer than %d bytes", maxHead))
		}
		grown := make([]byte, max(smallBuf, 2*len(rd.buf)))
		copy(grown, rd.buf[:rd.w])
		rd.buf = grown
	}
	return rd.buf[rd.w:], nil
}

// fill reads at least one byte more.
func (rd *reader) fill() error {
	space, err := rd.room()
	if err != nil {
		return err
	}
	for range 100 {
		n, err := rd.src.Read(space)
		rd.w += n
		if n > 0 {
			rd.any = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// readResponse reads one answer, passing over interim ones. The error says that
// there was none; a body that breaks off or is too long is no error, since the
// head has already said what came of the attempt. See response.reusable.
func readResponse(rd *reader) (response, error) {
	for range maxInterim + 1 {
		h, err := readHead(rd)
		if err != nil {
			return response{}, err
		}
		if h.status == 101 {
			return response{}, protocolError("it switches protocols, which nobody asked for")
		}
		if h.status < 200 {
			continue
		}
		res := response{status: h.status, retryAfter: h.retryAfter}
		keep := 0
		if h.status > 299 {
			keep = maxKept
		}
		res.kept, err = readBody(rd, &h, keep, maxBody)
		res.reusable = err == nil && !h.close && rd.r == rd.w
		return res, nil
	}
	return response{}, protocolError("too many interim answers")
}

var httpVersion = []byte("HTTP/1.")

// readHead reads up to the empty line that ends a head, and parses it.
func readHead(rd *reader) (head, error) {
	scanned := 0
	for {
		b := rd.buf[rd.r:rd.w]
		// An answer of another kind, a banner for example, is told by its first
		// bytes: nothing says that an empty line will ever come.
		if n := min(len(b), len(httpVersion)); !bytes.Equal(b[:n], httpVersion[:n]) {
			return head{}, protocolError("it does not begin with HTTP/1.")
		}
		end, next := headEnd(b, scanned)
		if end > 0 {
			rd.r += end
			return parseHead(b[:end])
		}
		scanned = next
		if err := rd.fill(); err != nil {
			if errors.Is(err, io.EOF) && rd.w > rd.r {
				err = io.ErrUnexpectedEOF
			}
			return head{}, err
		}
	}
}

// headEnd returns the length of the head at the beginning of b, with its empty
// line, or 0 and the place to look on from when more has come.
func headEnd(b []byte, from int) (end, next int) {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0, len(b)
		}
		i += from
		rest := b[i+1:]
		switch {
		case len(rest) > 0 && rest[0] == '\n':
			return i + 2, 0
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 3, 0
		case len(rest) == 0 || len(rest) == 1 && rest[0] == '\r':
			return 0, i
		}
		from = i + 1
	}
}

// parseHead parses a head that ends with its empty line. It is stricter than
// net/http: no folded lines, no space around a field's name, no unknown transfer
// coding, no two lengths that differ.
func parseHead(b []byte) (head, error) {
	h := head{length: -1}
	line, rest := cutLine(b)
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, httpVersion) || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' || line[7] != '0' && line[7] != '1' {
		return h, protocolError("its status line is malformed")
	}
	old := line[7] == '0'
	for _, d := range line[9:12] {
		if d < '0' || d > '9' {
			return h, protocolError("its status is not a number")
		}
		h.status = h.status*10 + int(d-'0')
	}
	if h.status < 100 {
		return h, protocolError("its status is less than 100")
	}
	keepAlive := false
	for n := 0; ; n++ {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			break
		}
		if n == maxHeaders {
			return h, protocolError(fmt.Sprintf("it has more than %d header fields", maxHeaders))
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			return h, protocolError("a header field is malformed")
		}
		value = bytes.Trim(value, " \t")
		for _, c := range value {
			if c < ' ' && c != '\t' || c == 0x7f {
				return h, protocolError("a header field has a control character")
			}
		}
		switch {
		case is(name, "content-length"):
			length, ok := parseLength(value)
			if !ok || h.length >= 0 && h.length != length {
				return h, protocolError("its content-length is malformed")
			}
			h.length = length
		case is(name, "transfer-encoding"):
			if old || h.chunked || !is(value, "chunked") {
				return h, protocolError("its transfer-encoding is not chunked")
			}
			h.chunked = true
		case is(name, "connection"):
			for token := range bytes.SplitSeq(value, []byte(",")) {
				token = bytes.Trim(token, " \t")
				h.close = h.close || is(token, "close")
				keepAlive = keepAlive || is(token, "keep-alive")
			}
		case is(name, "retry-after"):
			if h.retryAfter == "" {
				h.retryAfter = string(value)
			}
		}
	}
	if h.chunked && h.length >= 0 {
		// Chunked wins (RFC 9112, 6.3), but a sender that says both is not one to
		// share a connection with.
		h.length, h.close = -1, true
	}
	if old && !keepAlive {
		h.close = true
	}
	return h, nil
}

// readBody reads the body that follows a head and returns its first keep bytes.
// It stops with an error at the end of the connection, at its deadline, at a
// wrong chunk, and when the body is longer than most.
func readBody(rd *reader, h *head, keep int, most int64) ([]byte, error) {
	b := body{rd: rd, keep: keep, left: most}
	var err error
	switch {
	case h.status == 204 || h.status == 304:
	case h.chunked:
		err = b.chunks()
	case h.length >= 0:
		err = b.take(h.length)
	default:
		h.close = true
		if err = b.take(math.MaxInt64); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	return b.kept, err
}

// body is the state of one reading of a body.
type body struct {
	rd   *reader
	kept []byte
	keep int
	left int64 // bytes that may still be read, framing too
}

// take reads n bytes of content. A body that is known to be too long is read
// only as far as it is kept.
func (b *body) take(n int64) error {
	for n > 0 {
		if n > b.left && n != math.MaxInt64 && len(b.kept) == b.keep || b.left == 0 {
			return errBodyBound
		}
		if b.rd.r == b.rd.w {
			if err := b.rd.fill(); err != nil {
				return err
			}
		}
		got := b.rd.buf[b.rd.r:b.rd.w]
		got = got[:min(int64(len(got)), n, b.left)]
		b.rd.r += len(got)
		b.left -= int64(len(got))
		if n != math.MaxInt64 {
			n -= int64(len(got))
		}
		if more := b.keep - len(b.kept); more > 0 {
			b.kept = append(b.kept, got[:min(more, len(got))]...)
		}
	}
	return nil
}

// chunks reads a chunked body with its trailer.
func (b *body) chunks() error {
	for {
		line, err := b.line()
		if err != nil {
			return err
		}
		if i := bytes.IndexByte(line, ';'); i >= 0 {
			line = line[:i] // extensions mean nothing to us
		}
		size, ok := parseHex(bytes.TrimRight(line, " \t"))
		if !ok {
			return protocolError("a chunk size is malformed")
		}
		if size == 0 {
			break
		}
		if err := b.take(size); err != nil {
			return err
		}
		if line, err = b.line(); err != nil {
			return err
		}
		if len(line) != 0 {
			return protocolError("a chunk is longer than its size")
		}
	}
	for {
		line, err := b.line()
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

// line reads a line of the framing, which ends with CR LF and nothing less. It
// is valid until the next read.
func (b *body) line() ([]byte, error) {
	rd := b.rd
	scanned := 0
	for {
		got := rd.buf[rd.r:rd.w]
		if i := bytes.IndexByte(got[scanned:], '\n'); i >= 0 {
			i += scanned
			if i == 0 || got[i-1] != '\r' {
				return nil, protocolError("a chunk line does not end with CR LF")
			}
			rd.r += i + 1
			if b.left -= int64(i + 1); b.left < 0 {
				b.left = 0
				return nil, errBodyBound
			}
			return got[:i-1], nil
		}
		if scanned = len(got); scanned > maxLine {
			return nil, protocolError("a chunk line is too long")
		}
		if err := rd.fill(); err != nil {
			return nil, err
		}
	}
}

// cutLine returns the first line of b without its end, and the rest.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return nil, nil
	}
	line = b[:i]
	if i > 0 && line[i-1] == '\r' {
		line = line[:i-1]
	}
	return line, b[i+1:]
}

// is compares a field name or value with a lower-case word, without regard to
// the case of ASCII letters.
func is(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, d := range b {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + int64(d-'0')
	}
	return n, true
}

func parseHex(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		n = n<<4 | int64(c)
	}
	return n, true
}

// tokenBytes are the bytes a header field's name may have (RFC 9110, 5.6.2).
var tokenBytes = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func isToken[T string | []byte](name T) bool {
	for i := range len(name) {
		if !tokenBytes[name[i]] {
			return false
		}
	}
	return len(name) > 0
}
