package webhook

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

func read(s string) (response, error) {
	return readResponse(&reader{src: strings.NewReader(s)})
}

func TestReadResponse(t *testing.T) {
	long := strings.Repeat("x", maxBody)
	for _, tt := range []struct {
		name, in string
		status   int // 0: a protocol error
		kept     string
		reusable bool
	}{
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		{"no reason", "HTTP/1.1 204\r\n\r\n", 204, "", true},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, "", true},
		{"length", "HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nok", 200, "", true},
		{"length twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "", true},
		{"kept", "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno", 400, "no", true},
		{"close", "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nno", 400, "no", false},
		{"1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "", false},
		{"1.0 keep-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, "", true},
		{"close-delimited", "HTTP/1.1 500 Oh\r\n\r\nbroken", 500, "broken", false},
		{"chunked", "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n", 500, "abc0123456789", true},
		{"chunked and length", "HTTP/1.1 500 Oh\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 500, "abc", false},
		{"chunk too long", "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 500, "abc", false},
		{"chunk size wrong", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 200, "", false},
		{"chunk line endless", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;" + long, 200, "", false},
		{"chunk LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n", 200, "", false},
		{"cut body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", 200, "", false},
		{"body at the bound", "HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + long, 200, "", true},
		{"body past the bound", "HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + long + "x", 200, "", false},
		{"long body kept in part", "HTTP/1.1 404 No\r\nContent-Length: 1073741824\r\n\r\n" + long, 404, long[:maxKept], false},
		{"204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 204, "", false},
		{"garbage after", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 200, "", false},
		{"interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		{"999", "HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n", 999, "", true},

		{"interim flood", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100), 0, "", false},
		{"switch", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 0, "", false},
		{"banner", "SSH-2.0-OpenSSH_9.2\r\n", 0, "", false},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", 0, "", false},
		{"HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", 0, "", false},
		{"status word", "HTTP/1.1 2x0 OK\r\n\r\n", 0, "", false},
		{"status short", "HTTP/1.1 20\r\n\r\n", 0, "", false},
		{"status long", "HTTP/1.1 2000 OK\r\n\r\n", 0, "", false},
		{"status low", "HTTP/1.1 099 OK\r\n\r\n", 0, "", false},
		{"no colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", 0, "", false},
		{"space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", 0, "", false},
		{"folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", 0, "", false},
		{"NUL", "HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", 0, "", false},
		{"lengths differ", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 0, "", false},
		{"length negative", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", 0, "", false},
		{"length list", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 0, "", false},
		{"length huge", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", 0, "", false},
		{"coding unknown", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0, "", false},
		{"coding twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0, "", false},
		{"many headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 200) + "\r\n", 0, "", false},
		{"huge header", "HTTP/1.1 200 OK\r\nA: " + long + "\r\n\r\n", 0, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, src := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in))} {
				rd := &reader{src: src}
				got, err := readResponse(rd)
				var bad protocolError
				if tt.status == 0 {
					if !errors.As(err, &bad) {
						t.Fatalf("got %+v, %v, want a protocol error", got, err)
					}
					continue
				}
				if err != nil || got.status != tt.status || string(got.kept) != tt.kept {
					t.Fatalf("got %+v, %v, want %d %q", got, err, tt.status, tt.kept)
				}
				// Byte by byte, what follows an answer has not come yet when the answer ends.
				if _, once := src.(*strings.Reader); once && got.reusable != tt.reusable {
					t.Errorf("reusable is %t, want %t", got.reusable, tt.reusable)
				}
				if len(rd.buf) > maxHead {
					t.Errorf("buffer of %d bytes", len(rd.buf))
				}
			}
		})
	}
}

func TestReadResponse_CutOff(t *testing.T) {
	const whole = "HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"
	for n := range len(whole) {
		_, err := read(whole[:n])
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if !errors.Is(err, want) {
			t.Fatalf("after %d bytes: %v, want %v", n, err, want)
		}
	}
}

// FuzzResponse holds the parser against net/http's: what both accept, both
// read alike. What only one accepts is no finding, since ours is stricter.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 404 No\nContent-Length: 3\n\nabcd",
		"HTTP/1.0 500 Oh\r\nConnection: keep-alive\r\n\r\nall of it",
		"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: x\r\n\r\n",
		"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\nmore",
		"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 00\r\nContent-Length: 00\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	request := &http.Request{Method: http.MethodPost}
	f.Fuzz(func(t *testing.T, in []byte) {
		rd := &reader{src: bytes.NewReader(in)}
		h, err := readHead(rd)
		if err != nil || h.status < 200 {
			return
		}
		br := bufio.NewReader(bytes.NewReader(in))
		want, err := http.ReadResponse(br, request)
		if err != nil {
			return
		}
		if want.StatusCode != h.status || want.Header.Get("Retry-After") != h.retryAfter {
			t.Fatalf("%q: got %d %q, want %d %q", in, h.status, h.retryAfter, want.StatusCode, want.Header.Get("Retry-After"))
		}
		got, err := readBody(rd, &h, len(in), int64(len(in)))
		wantBody, wantErr := io.ReadAll(want.Body)
		if err != nil || wantErr != nil {
			return
		}
		if !bytes.Equal(got, wantBody) {
			t.Fatalf("%q: body %q, want %q", in, got, wantBody)
		}
		// Only what net/http would keep open may be kept open.
		if want.Close && !h.close {
			t.Fatalf("%q: kept open", in)
		}
		rest, _ := io.ReadAll(br)
		if more := rd.buf[rd.r:rd.w]; !h.close && !bytes.HasPrefix(rest, more) {
			t.Fatalf("%q: %s is left, want %s", in, strconv.Quote(string(more)), strconv.Quote(string(rest)))
		}
	})
}
