package postgres

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var cluster *Cluster

// TestMain also plays the program that is killed in TestStart_DiesWithItsProgram.
func TestMain(m *testing.M) {
	if os.Getenv("ROWHOOK_TEST_ORPHAN") != "" {
		c, err := Start(context.Background(), Options{})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(c.Dir, c.URL("postgres"))
		select {}
	}
	os.Exit(Main(m, Options{Settings: map[string]string{"max_prepared_transactions": "5"}}, &cluster))
}

func TestStart_LogicalReplicationWorks(t *testing.T) {
	url := cluster.Database(t, "slots")
	if !strings.Contains(url, "/slots?") {
		t.Errorf("URL of the database is %s", url)
	}
	err := cluster.Exec(t.Context(), "slots", `
		CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE a;
		SELECT pg_create_logical_replication_slot('s', 'pgoutput')`)
	// A slot cannot be made in a transaction that has written, and one simple query is one.
	if err == nil {
		t.Error("a slot was created after writes in the same transaction")
	}
	if err := cluster.Exec(t.Context(), "slots", `SELECT pg_create_logical_replication_slot('s', 'pgoutput')`); err != nil {
		t.Error(err)
	}
}

func TestKill9_CommittedRowsSurviveAndPortStays(t *testing.T) {
	c := New(t, Options{})
	ctx := t.Context()
	if err := c.Exec(ctx, "postgres", `CREATE TABLE a (id int); INSERT INTO a VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	port, pid := c.Port, c.PID()
	c.Kill9()
	if c.PID() != 0 {
		t.Error("a killed cluster has a pid")
	}
	if kids := childrenOf(pid); len(kids) > 0 || alive(pid) {
		t.Errorf("processes are left: %v", kids)
	}
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []StopMode{Fast, Immediate} {
		if err := c.Restart(ctx, mode); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := c.Conn(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var n int
	if err := conn.QueryRow(ctx, `SELECT count(*) FROM a`).Scan(&n); err != nil || n != 1 {
		t.Errorf("rows after kill -9: %d, %v", n, err)
	}
	if c.Port != port {
		t.Errorf("the port went from %d to %d", port, c.Port)
	}
}

func TestStart_PasswordIsAskedFor(t *testing.T) {
	c := New(t, Options{Password: "se'cret pass/word"})
	if err := c.Exec(t.Context(), "postgres", `SELECT 1`); err != nil {
		t.Error(err)
	}
	c.password = "wrong"
	if err := c.Exec(t.Context(), "postgres", `SELECT 1`); err == nil {
		t.Error("a wrong password was let in")
	}
}

func TestStart_ErrorHasTheServersLog(t *testing.T) {
	_, err := Start(t.Context(), Options{Settings: map[string]string{"shared_buffers": "-7"}})
	if err == nil || !strings.Contains(err.Error(), "shared_buffers") {
		t.Errorf("the error does not say what the server said: %v", err)
	}
}

func TestStart_DiesWithItsProgram(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "ROWHOOK_TEST_ORPHAN=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 4096)
	n, _ := out.Read(line)
	dir, url, ok := strings.Cut(strings.TrimSpace(string(line[:n])), " ")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !ok {
		t.Fatalf("the program printed %q", line[:n])
	}
	defer os.RemoveAll(dir)
	pid, err := os.ReadFile(dir + "/data/postmaster.pid")
	if os.IsNotExist(err) {
		return // gone already
	}
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := bytes.Cut(pid, []byte("\n"))
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := os.Stat("/proc/" + string(first)); os.IsNotExist(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server at %s outlived its program", url)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
