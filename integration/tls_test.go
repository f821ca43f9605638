package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowhook/rowhook/integration/postgres"
	"github.com/rowhook/rowhook/relay/api"
)

// authority is a certificate authority of the test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign writes the certificate of a template as PEM.
func (a *authority) sign(template *x509.Certificate, key *ecdsa.PublicKey, file string) {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err == nil {
		err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// sslmode is libpq's: what the URL asks for is what happens, for replication too, and what
// fails says why.
func TestSlots_TLSIsWhatTheURLAsksFor(t *testing.T) {
	t.Parallel()
	cluster := postgres.New(t, postgres.Options{})
	s := newShop(t, cluster, "tls", shopOptions{rules: itemRule + hintRule})
	role(t, cluster, "app", "REPLICATION SUPERUSER")
	s.stopCluster(postgres.Fast)

	ca, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	caFile, otherFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "other.pem")
	ca.sign(ca.cert, &ca.key.PublicKey, caFile)
	other.sign(other.cert, &other.key.PublicKey, otherFile)
	data := filepath.Join(cluster.Dir, "data")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &key.PublicKey, filepath.Join(data, "server.crt"))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(data, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	write("pg_hba.conf", "hostssl all app 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 trust\n")
	if err := cluster.Set(map[string]string{"ssl": "on"}); err != nil {
		t.Fatal(err)
	}
	s.runCluster()

	at := func(host, more string) string {
		return fmt.Sprintf("postgres://app@%s:%d/tls?%s", host, cluster.Port, more)
	}
	for _, c := range []struct {
		url  string
		says []string
	}{
		{at("127.0.0.1", "sslmode=disable"), []string{"no encryption"}},
		{at("127.0.0.1", "sslmode=verify-full&sslrootcert="+url.QueryEscape(otherFile)), []string{"certificate", "unknown authority"}},
		{at("localhost", "sslmode=verify-full&sslrootcert="+url.QueryEscape(caFile)), []string{"certificate", "localhost"}},
		{at("127.0.0.1", "sslmode=require"), nil},
		{at("localhost", "sslmode=verify-ca&sslrootcert="+url.QueryEscape(caFile)), nil},
		{at("127.0.0.1", "sslmode=verify-full&sslrootcert="+url.QueryEscape(caFile)), nil},
	} {
		s.moveTo(c.url)
		res := s.command("check", "--database")
		if (res.Code == 0) != (c.says == nil) {
			t.Errorf("%s: exit code %d: %s", c.url, res.Code, res.Stderr)
		}
		contains(t, c.url, res.Stderr, c.says...)
	}
	s.moveTo(at("127.0.0.1", "sslmode=verify-full&sslrootcert="+url.QueryEscape(otherFile)))
	s.d.Start()
	contains(t, "the reason", s.untilSource(api.SourceStopped).Reason, "unknown authority")
	s.d.Term()
	s.moveTo(at("127.0.0.1", "sslmode=verify-full&sslrootcert="+url.QueryEscape(caFile)))
	s.d.StartReady()
	s.put(1)
	s.expect(1)
	if n := s.ask("SELECT count(*)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'rowhook%' AND NOT ssl"); n != "0" {
		t.Errorf("%s sessions of rowhook are not encrypted", n)
	}
	s.d.Term()
}
