package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) sourceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "source",
		Short: "Take leave of a source",
	}
	cmd.AddCommand(p.sourceDropCommand())
	return cmd
}

func (p *program) sourceDropCommand() *cobra.Command {
	var t target
	var asJSON, yes bool
	cmd := &cobra.Command{
		Use:   "drop SOURCE",
		Short: "Drop the slot and publication of a source, so that nothing pins WAL",
		Long: `Drop stops reading a source and drops its replication slot and publication in
the database. A slot that nobody reads makes PostgreSQL keep WAL until its disk
is full; this is the way to leave none behind. What is in the log is delivered
all the same. Changes made from now on are not captured, and cannot be later.`,
		Example: `  rowhook source drop shop
  rowhook source drop shop --yes`,
		Args: exactArgs("SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := p.confirm(fmt.Sprintf("Changes of %s are not captured any more. Type its name to go on: ", args[0]), args[0]); err != nil {
					return err
				}
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.DropSource(ctx, &api.DropRequest{Source: args[0]})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				p.printDrop(res)
				return nil
			})
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (p *program) printDrop(res *api.DropResponse) {
	var gone []string
	if res.Slot != "" {
		gone = append(gone, "slot "+res.Slot)
	}
	if res.Publication != "" {
		gone = append(gone, "publication "+res.Publication)
	}
	if len(gone) == 0 {
		gone = append(gone, "nothing: neither slot nor publication was there")
	}
	fmt.Fprintf(p.stdout, "dropped %s\n", printable(strings.Join(gone, " and ")))
	if res.Note != "" {
		fmt.Fprintln(p.stdout, printable(res.Note))
	}
}

// confirm asks a person at a terminal to type a word. Without one it wants
// --yes.
func (p *program) confirm(question, word string) error {
	f, ok := p.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usageErrorf("nobody can be asked here; say --yes")
	}
	fmt.Fprint(p.stderr, printable(question))
	line, err := bufio.NewReader(p.stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != word {
		return fmt.Errorf("not confirmed, nothing done")
	}
	return nil
}
