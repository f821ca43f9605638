package cdc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// drip is a connection that writes a few bytes at a time.
type drip struct{ net.Conn }

func (d drip) Write(b []byte) (n int, err error) {
	for piece := range slices.Chunk(b, 11) {
		m, err := d.Conn.Write(piece)
		if n += m; err != nil {
			return n, err
		}
		time.Sleep(300 * time.Millisecond)
	}
	return n, nil
}

// A16: a read deadline that passes within a TLS record breaks neither what is
// read afterwards nor what is written.
func TestSession_ATimeoutWithinATLSRecordLosesNothing(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		client := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
		srv := &server{t: t, conn: tls.Server(drip{theirs}, &tls.Config{Certificates: []tls.Certificate{certificate}})}
		h := &handled{}
		s := &session{
			conn: client, frontend: pgproto3.NewFrontend(client, client), handler: h, log: slog.New(slog.DiscardHandler),
			acks: newAcks(0x100, 0x100), interval: 2 * time.Second, silence: time.Minute, relations: newRelations(noKey, noTypes),
		}
		shaken := make(chan error, 1)
		go func() { shaken <- srv.conn.(*tls.Conn).Handshake() }()
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		end := make(chan error, 1)
		go func() { end <- s.run(t.Context()) }()
		go srv.read(time.Now())
		srv.keepalive(0x200, 0)
		srv.keepalive(0x300, 0)
		h.setDurable(0x300)
		time.Sleep(5 * time.Second)
		srv.expect(h, "idle 0/200", "idle 0/300")
		sent := srv.sent()
		if last := sent[len(sent)-1]; len(sent) < 3 || last.flush != 0x300 {
			t.Errorf("statuses are %+v", sent)
		}
		theirs.Close()
		if err := <-end; err == nil {
			t.Error("the session outlived its connection")
		}
		_, _ = io.Copy(io.Discard, ours)
		ours.Close()
	})
}
