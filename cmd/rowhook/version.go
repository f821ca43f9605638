package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what the program knows of how it was built.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Time    string `json:"time,omitempty"` // of the commit
	// Modified says that the commit is not all of it.
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
}

func readBuild() build {
	b := build{Version: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) text() string {
	s := fmt.Sprintf("rowhook %s (%s, %s/%s)\n", b.Version, b.Go, b.OS, b.Arch)
	if b.Commit != "" {
		s += "commit " + b.Commit + ", " + b.Time
		if b.Modified {
			s += ", modified"
		}
		s += "\n"
	}
	return s
}

func (p *program) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  rowhook version --json`,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if asJSON {
				return p.printJSON(b)
			}
			_, err := fmt.Fprint(p.stdout, b.text())
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
