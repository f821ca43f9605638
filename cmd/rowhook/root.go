package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rowhook",
		Short: "PostgreSQL commits as typed events, delivered as signed webhooks",
		Long: `Rowhook reads the logical replication of PostgreSQL databases, passes every
change through rules, writes the resulting events to a durable log and delivers
them to webhook endpoints: at least once, in order per key, with an id that
never changes.

Commands that look at a daemon, or change something of it, go through the socket
in its data folder; when no daemon runs they work on the store itself.

Exit codes: 0 done; 1 it could not be done; 2 the command line or the
configuration is wrong, (plan) there is something to do; 3 (status) no daemon
runs or a source makes no progress, (fmt --check) a file is not formatted,
(types --compat) a change breaks receivers.`,
		Version:       readBuild().text(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("{{.Version}}")
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// Of a wrong word under a group and a flag of the command that was meant,
		// the word is the mistake.
		if c.HasSubCommands() {
			if _, rest, ferr := root.Find(p.args); ferr == nil && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
				return noSubcommand(c, rest)
			}
		}
		return usageErrorf("%w%s", err, flagHint(c, err))
	})
	root.AddGroup(
		&cobra.Group{ID: "daemon", Title: "The daemon:"},
		&cobra.Group{ID: "rules", Title: "Rules:"},
		&cobra.Group{ID: "look", Title: "A daemon or its store:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("daemon", p.runCommand(), p.reloadCommand(), p.checkCommand())
	add("rules", p.initCommand(), p.testCommand(), p.recordCommand(), p.formatCommand(), p.typesCommand(), p.simulateCommand())
	add("daemon", p.planCommand())
	add("look", p.statusCommand(), p.explainCommand(), p.eventsCommand(), p.deliveriesCommand(), p.endpointsCommand(),
		p.checkpointCommand(), p.backfillCommand(), p.sourceCommand(), p.backupCommand())
	root.AddCommand(p.receiveCommand(), p.versionCommand())
	root.SetHelpCommand(helpCommand(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// strict makes every mistake on the command line an error with exit code 2.
// Left alone, cobra answers a wrong word under a group with help and exit code
// 0.
func strict(cmd *cobra.Command) {
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = noSubcommand
		cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	} else {
		args := cmd.Args
		if args == nil {
			args = exactArgs()
		}
		cmd.Args = func(c *cobra.Command, given []string) error {
			if err := args(c, given); err != nil {
				return usageError(err)
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		strict(c)
	}
}

func usageError(err error) error {
	var exit *exitError
	if errors.As(err, &exit) {
		return err
	}
	return usageErrorf("%w", err)
}

// flagHint suggests a flag for one that does not exist.
func flagHint(c *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	if s := names.SuggestionsFor(unknown.GetSpecifiedName()); len(s) > 0 {
		return "; did you mean --" + strings.Join(s, " or --") + "?"
	}
	return ""
}

// noSubcommand refuses a word that is no subcommand of a group.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageErrorf("there is no command %q under '%s'%s", args[0], cmd.CommandPath(), suggestion(cmd, args[0]))
}

// suggestion names the commands of a group that a wrong word may mean.
func suggestion(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(word); len(s) > 0 {
		return "; did you mean " + strings.Join(s, " or ") + "?"
	}
	return ""
}

// helpCommand replaces cobra's, which ends a wrong topic with exit code 0.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		Args:  cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || cmd == nil || len(rest) > 0 {
				hint := ""
				if cmd != nil && len(rest) > 0 {
					hint = suggestion(cmd, rest[0])
				}
				return usageErrorf("there is no command '%s'%s", strings.Join(append([]string{"rowhook"}, args...), " "), hint)
			}
			return cmd.Help()
		},
	}
}

// exactArgs is cobra.ExactArgs with the names of the arguments in its error.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageErrorf("%s is missing", names[len(args)])
		}
		return maxArgs(len(names))(nil, args)
	}
}

// maxArgs is cobra.MaximumNArgs with the first argument too many in its error.
func maxArgs(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			hint := ""
			if strings.HasSuffix(args[n], ".hcl") {
				hint = "; a configuration is named with -c: -c " + args[n]
			}
			return usageErrorf("%q is one argument too many%s", args[n], hint)
		}
		return nil
	}
}
