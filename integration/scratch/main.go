// Scratch is what the examples' scripts need and a fresh machine lacks: a throw-away PostgreSQL, a
// way to run SQL (server packages come without psql), a free port, and waiting with a deadline.
//
//	scratch postgres FILE        run a cluster with a database named shop until SIGTERM; its URL goes to FILE
//	scratch sql URL [FILE]       run the statements in FILE, or on standard input; print rows
//	scratch port                 print a free loopback port
//	scratch wait PID FILE|URL    wait until FILE exists or URL answers 200, as long as PID lives
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhook/rowhook/integration/postgres"
)

const patience = time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "scratch:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "postgres":
		return serve(ctx, args[1])
	case len(args) == 2 && args[0] == "sql":
		return execute(ctx, args[1], os.Stdin)
	case len(args) == 3 && args[0] == "sql":
		file, err := os.Open(args[2])
		if err != nil {
			return err
		}
		defer file.Close()
		return execute(ctx, args[1], file)
	case len(args) == 1 && args[0] == "port":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		fmt.Println(l.Addr().(*net.TCPAddr).Port)
		return l.Close()
	case len(args) == 3 && args[0] == "wait":
		return wait(ctx, args[1], args[2])
	}
	return fmt.Errorf("unknown command %q; see the top of integration/scratch/main.go", strings.Join(args, " "))
}

func serve(ctx context.Context, file string) error {
	c, err := postgres.Start(ctx, postgres.Options{FSync: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CreateDatabase(ctx, "shop"); err != nil {
		return err
	}
	// Renamed into place: who sees the file sees all of it.
	part := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(part, []byte(c.URL("shop")+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(part, file); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// execute runs statements in the simple protocol, as psql -c does: together they are one
// transaction, unless they say BEGIN and COMMIT themselves.
func execute(ctx context.Context, url string, sql io.Reader) error {
	text, err := io.ReadAll(sql)
	if err != nil {
		return err
	}
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	results, err := conn.Exec(ctx, string(text)).ReadAll()
	if err != nil {
		return err
	}
	for _, r := range results {
		for _, row := range r.Rows {
			var line []string
			for _, value := range row {
				line = append(line, string(value))
			}
			fmt.Println(strings.Join(line, "|"))
		}
	}
	return nil
}

func wait(ctx context.Context, pid, what string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := there(ctx, what)
		if err == nil {
			return nil
		}
		if _, gone := os.Stat("/proc/" + pid); gone != nil {
			return fmt.Errorf("process %s ended", pid)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-tick.C:
		}
	}
}

func there(ctx context.Context, what string) error {
	if !strings.HasPrefix(what, "http://") {
		_, err := os.Stat(what)
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, what, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status + ": " + strings.TrimSpace(string(body)))
	}
	return nil
}
