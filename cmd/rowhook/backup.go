package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rowhook/rowhook/relay/api"
)

func (p *program) backupCommand() *cobra.Command {
	var t target
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a consistent copy of the store while the daemon goes on",
		Long: `Backup writes a copy of the store as it is at one moment. FILE must not exist
yet. The daemon writes it, as its own user.

To restore it, stop the daemon and put FILE alone into the data folder, as
rowhook.db. What was delivered since the copy was made may be sent again, with
the same ids. The copy is older than the slot: 'rowhook run' then says what is
missing and which --reset-checkpoint accepts it.`,
		Example: `  rowhook backup /backup/rowhook-$(date +%F).db`,
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			// The daemon's working folder is not ours.
			path, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("back up to %s: %w", args[0], err)
			}
			return p.action(cmd, &t, func(ctx context.Context, b backend) error {
				res, err := b.Backup(ctx, &api.BackupRequest{Path: path})
				if err != nil {
					return err
				}
				if asJSON {
					return p.printJSON(res)
				}
				fmt.Fprintf(p.stdout, "wrote %s, %s\n", printable(res.Path), size(res.Bytes))
				return nil
			})
		},
	}
	t.flags(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}
