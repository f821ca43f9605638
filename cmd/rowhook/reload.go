package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) reloadCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again",
		Long: `Reload has the running daemon take events, locals, sinks and the log block as
the files say now, without losing, repeating or reordering anything; SIGHUP does
the same. It is all or nothing: after a mistake in the files, or when something
changed that needs a restart (the rowhook block but for log, and sources), the
daemon goes on as before and the answer says why.

Rules that read nothing new judge from the next transaction on. Rules that read
more (a table, an operation, a column, an old value) judge what commits after a
message that the reload writes into the WAL; what commits before is judged by
the rules before, however late it is read. 'rowhook status' shows which rules
are in force and from where on.

A sink that changed ends what it is sending and goes on from there. The
deliveries of one that is gone are held until it is back, or until they are
given up with 'rowhook endpoints remove'.`,
		Example: `  rowhook reload
  rowhook reload -c /etc/rowhook
  rowhook reload --json | jq .sources`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Reload(ctx, &api.ReloadRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				p.printReload(res)
				return nil
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printReload(res *api.ReloadResponse) {
	if res.Warnings != "" {
		fmt.Fprint(p.stderr, res.Warnings)
	}
	if res.Events.Empty() && res.Sinks.Empty() && !res.Log {
		fmt.Fprintln(p.stdout, "nothing has changed")
		return
	}
	p.printChanged("event", res.Events)
	p.printChanged("sink", res.Sinks)
	if res.Log {
		fmt.Fprintln(p.stdout, "~ log")
	}
	for _, h := range res.Held {
		more := ""
		if h.More {
			more = "more than "
		}
		fmt.Fprintf(p.stdout, "held for %s: %s%s\n", printable(h.Sink), more, plural(h.Deliveries, "delivery", "deliveries"))
	}
	for _, sql := range res.Statements {
		fmt.Fprintln(p.stdout, printable(sql)+";")
	}
	for _, s := range res.Sources {
		rules := s.Rules.Fingerprint
		if s.Rules.Waiting != "" {
			rules = s.Rules.Waiting
		}
		text := "in force from " + s.Rules.From + " on"
		if s.Note != "" {
			text = s.Note
		}
		fmt.Fprintf(p.stdout, "source %s: rules %s: %s\n", printable(s.Source), printable(rules), printable(text))
	}
}

// printChanged prints one line a name.
func (p *program) printChanged(what string, c api.Changed) {
	for _, l := range []struct {
		sign  string
		names []string
	}{{"+", c.Added}, {"~", c.Changed}, {"-", c.Removed}} {
		for _, name := range l.names {
			fmt.Fprintln(p.stdout, strings.Join([]string{l.sign, what, printable(name)}, " "))
		}
	}
}
