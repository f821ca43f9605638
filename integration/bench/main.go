// Bench measures Rowhook beside the least program that could do the job.
//
//	go run ./integration/bench [--short] [--json FILE] [--rounds N] [--only drain,live] [--relays rowhook,bare]
//
// It starts a private PostgreSQL with fsync on, a receiver in a process of its own, and, in turn,
// two relays: the real rowhook binary with log, order and retries on, and bare, the yardstick.
// Both have the same rows, the same receiver and the same machine, one after the other within each
// round, and change places from round to round; the table has medians. Absolute figures move with
// the machine, so the ratios are what to look at. The measured relay shares the cores with
// PostgreSQL and the receiver, as in life a sidecar does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rowhook/rowhook/integration/postgres"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == receiverCommand {
		if err := runReceiver(); err != nil {
			fmt.Fprintln(os.Stderr, "receiver:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	isShort := flags.Bool("short", false, "smaller workloads, one round: about two minutes")
	jsonFile := flags.String("json", "", "write the table to this `file` too")
	rounds := flags.Int("rounds", 0, "how often everything is measured (default 3, with --short 1)")
	only := flags.String("only", "", "`scenarios` to run: drain, slow, live, large, backfill, rules, decode, huge (default all; huge only without --short)")
	names := flags.String("relays", "bare,rowhook", "`relays` to measure")
	binary := flags.String("rowhook", os.Getenv("ROWHOOK_BIN"), "rowhook `binary` to measure (default: build ./cmd/rowhook)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	b := &bench{sizes: full}
	if *isShort {
		b.sizes = short
	}
	if *rounds <= 0 {
		*rounds = map[bool]int{true: 1, false: 3}[*isShort]
	}
	chosen, small, err := choose(*only, *isShort)
	if err != nil {
		return err
	}
	measured := results{}
	if len(chosen) > 0 {
		err = b.run(ctx, chosen, *rounds, *names, *binary, measured)
	} else {
		fmt.Printf("medians of %d rounds\n", *rounds)
	}
	for round := range *rounds {
		for _, m := range small {
			if err == nil {
				fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, *rounds, m.name)
				err = m.run(ctx, measured)
			}
		}
	}
	if err != nil {
		return err
	}
	out := rows(measured)
	printTable(os.Stdout, out)
	if *jsonFile != "" {
		return writeJSON(*jsonFile, out)
	}
	return nil
}

// run measures the scenarios that need a cluster, a receiver and relays.
func (b *bench) run(ctx context.Context, chosen []scenario, rounds int, names, binary string, measured results) (err error) {
	if b.dir, err = os.MkdirTemp("", "rowhook-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	relays, err := buildRelays(ctx, b.dir, names, binary)
	if err != nil {
		return err
	}
	b.cluster, err = postgres.Start(ctx, postgres.Options{FSync: true, Settings: map[string]string{
		"shared_buffers":     "256MB",
		"max_wal_size":       "8GB", // a checkpoint in the middle of a measurement would be noise
		"checkpoint_timeout": "1h",
		"autovacuum":         "off",
	}})
	if err != nil {
		return err
	}
	defer b.cluster.Close()
	if b.receiver, err = startReceiver(); err != nil {
		return err
	}
	defer b.receiver.stop()

	begin := time.Now()
	for round := range rounds {
		for _, s := range chosen {
			fmt.Fprintf(os.Stderr, "%6s  round %d of %d: %s\n", time.Since(begin).Round(time.Second), round+1, rounds, s.name)
			if err := b.measure(ctx, s, relays, measured); err != nil {
				return err
			}
		}
		slices.Reverse(relays)
	}
	fmt.Printf("PostgreSQL %d, %s; medians of %d rounds\n", b.cluster.Major(), b.sizes, rounds)
	return nil
}

func (s sizes) String() string {
	return fmt.Sprintf("backlog of %d rows in transactions of %d, %d rows at a receiver of %s, %s live, one transaction of %d rows",
		s.drain, s.backlog, s.slow, s.delay, s.live, s.large)
}

// choose returns the scenarios and the benchmarks of packages that are named.
func choose(only string, isShort bool) (chosen []scenario, small []micro, err error) {
	if only == "" {
		for _, s := range scenarios {
			if s.name != "huge" || !isShort {
				chosen = append(chosen, s)
			}
		}
		return chosen, micros, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		j := slices.IndexFunc(micros, func(m micro) bool { return m.name == name })
		switch {
		case i >= 0:
			chosen = append(chosen, scenarios[i])
		case j >= 0:
			small = append(small, micros[j])
		default:
			return nil, nil, fmt.Errorf("no scenario %q", name)
		}
	}
	return chosen, small, nil
}

func buildRelays(ctx context.Context, dir, names, binary string) ([]relay, error) {
	var relays []relay
	for name := range strings.SplitSeq(names, ",") {
		switch name {
		case "bare":
			bin, err := build(ctx, dir, "./integration/bench/bare")
			if err != nil {
				return nil, err
			}
			relays = append(relays, bare{bin})
		case "rowhook":
			if binary == "" {
				var err error
				if binary, err = build(ctx, dir, "./cmd/rowhook"); err != nil {
					return nil, err
				}
			}
			r, err := newRowhook(binary)
			if err != nil {
				return nil, err
			}
			relays = append(relays, r)
		default:
			return nil, fmt.Errorf("no relay %q: there are bare and rowhook", name)
		}
	}
	return relays, nil
}
