package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of Standard Webhooks, and our own.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
	// HeaderAttempt counts the attempts of a delivery from 1.
	HeaderAttempt = "rowhook-attempt"
	// HeaderReplay is "true" on a delivery outside the order promise, else absent.
	HeaderReplay = "rowhook-replay"
)

// Tolerance is how far the time of an attempt may lie from the receiver's
// clock, either way, as the official libraries have it.
const Tolerance = 5 * time.Minute

const (
	signatureVersion = "v1,"
	// signatureLen is the length of one signature with a space before it.
	signatureLen = 1 + len(signatureVersion) + 44
)

// signer signs one message after the other. It keeps the state of each hash
// after the padded key, so that a signature costs the hashing of the message
// and two blocks. Not for concurrent use.
type signer struct {
	macs   []hash.Hash
	prefix []byte
	sum    []byte
}

func newSigner(keys []Key) *signer {
	s := &signer{sum: make([]byte, 0, sha256.Size)}
	for _, k := range keys {
		mac := hmac.New(sha256.New, k.bytes)
		mac.Reset() // the first Reset makes hmac save its padded state
		s.macs = append(s.macs, mac)
	}
	return s
}

// sign appends the signatures of all keys, separated by spaces. What is signed
// is id, timestamp and body with dots between; the body is not copied.
func (s *signer) sign(dst []byte, id []byte, timestamp int64, body []byte) []byte {
	s.prefix = append(append(s.prefix[:0], id...), '.')
	s.prefix = append(strconv.AppendInt(s.prefix, timestamp, 10), '.')
	for i, mac := range s.macs {
		if i > 0 {
			dst = append(dst, ' ')
		}
		mac.Reset()
		mac.Write(s.prefix)
		mac.Write(body)
		s.sum = mac.Sum(s.sum[:0])
		dst = append(dst, signatureVersion...)
		dst = base64.StdEncoding.AppendEncode(dst, s.sum)
	}
	return dst
}

// Sign returns the value of webhook-signature for a message: one signature a
// key, separated by spaces. The timestamp is in Unix seconds.
func Sign(id string, timestamp int64, body []byte, keys []Key) string {
	return string(newSigner(keys).sign(nil, []byte(id), timestamp, body))
}

// What Verify finds wrong.
var (
	ErrHeaders   = errors.New("webhook-id, webhook-timestamp or webhook-signature is missing or malformed")
	ErrTime      = errors.New("webhook-timestamp is too far from now")
	ErrSignature = errors.New("no signature matches")
)

// Verify checks a received message: the body exactly as it came, signed with
// one of the keys at most tolerance from now. Without keys nothing matches.
// Signatures of other versions than v1 are skipped. Its errors are
// [ErrHeaders], [ErrTime] and [ErrSignature], possibly wrapped.
func Verify(h http.Header, body []byte, keys []Key, now time.Time, tolerance time.Duration) error {
	id, stamp, signatures := h.Get(HeaderID), h.Get(HeaderTimestamp), h.Get(HeaderSignature)
	if id == "" || stamp == "" || signatures == "" {
		return ErrHeaders
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return ErrHeaders
	}
	if off := time.Unix(seconds, 0).Sub(now); off > tolerance || off < -tolerance {
		return fmt.Errorf("%w: it is %s off", ErrTime, off.Round(time.Second))
	}
	// Every signature is compared with every key, so that the time taken tells
	// nothing about which one matched.
	match := false
	want := make([][]byte, len(keys))
	for i, k := range keys {
		want[i] = newSigner([]Key{k}).sign(nil, []byte(id), seconds, body)
	}
	for signature := range strings.SplitSeq(signatures, " ") {
		if !strings.HasPrefix(signature, signatureVersion) {
			continue
		}
		for _, w := range want {
			// Equal compares lengths too, so that an empty or cut one never matches.
			if hmac.Equal([]byte(signature), w) {
				match = true
			}
		}
	}
	if !match {
		return ErrSignature
	}
	return nil
}
