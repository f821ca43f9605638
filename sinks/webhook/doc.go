// Package webhook is the sink that sends events to an HTTP receiver, as
// Standard Webhooks 1.0 says it.
//
// # The way of an attempt
//
// [Sink.Send] runs in its caller's goroutine from beginning to end. It takes a
// kept connection or dials one, builds head and body in one buffer, signs the
// body where it lies, writes the buffer with one call and waits for the answer
// on the same connection. One deadline covers all of it: name lookup, dial, TLS
// handshake, write, head and body of the answer.
//
// # What it promises
//
// The head of the answer decides: 2xx is delivered, whatever becomes of the
// body after it; everything else, and no answer, is a failure with a class of
// [relay.ErrorClass]. Redirects are never followed. An answer is never
// decompressed, at most 64 KiB of its body are read, and the first 4 KiB are
// kept when the attempt failed. Proxies named in the environment are ignored.
//
// A request is written twice within one attempt in one case only: a kept
// connection turns out to have been closed by the receiver before it answered
// with a single byte, within a second of the write. That is the race every
// keep-alive client has with the receiver's idle timeout; the second request
// carries the same webhook-id.
//
// # Why not net/http
//
// One POST an event is bought with CPU, and net/http spends three to four
// times as much of it a request as is needed to write 700 bytes and to read
// 100. This client speaks HTTP/1.1 only, over plain TCP or TLS 1.2 and later,
// and HTTP/2 not at all: a receiver behind TLS is told so by ALPN. Its answer
// parser accepts less than net/http's, and is fuzzed against it.
//
// # Words
//
// The request is the bytes of one attempt. The head is the status line and the
// header fields of an answer. A kept connection is one that waits for the next
// attempt; it is stale when the receiver has closed it or has sent bytes that
// nobody asked for. Bytes that nobody asked for are never taken for the answer
// to the next request: they close the connection.
package webhook
