package main

import (
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build holds what the Go toolchain has noted in this binary.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"` // of the revision, RFC 3339
	Modified bool   `json:"modified"`       // the working tree differed from the revision
	Go       string `json:"go"`
}

func buildOf(info *debug.BuildInfo) build {
	b := build{Version: info.Main.Version, Go: info.GoVersion}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (c *command) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: arguments()}
	cmd.RunE = func(*cobra.Command, []string) error {
		info, ok := debug.ReadBuildInfo()
		if !ok {
			info = &debug.BuildInfo{}
		}
		b := buildOf(info)
		if c.output == "json" {
			return json.NewEncoder(c.stdout).Encode(b)
		}
		line := "hardneg " + b.Version
		if b.Revision != "" {
			line += ", revision " + b.Revision
			if b.Modified {
				line += " and changes"
			}
		}
		_, err := fmt.Fprintf(c.stdout, "%s, %s\n", line, b.Go)
		return err
	}
	c.outputFlag(cmd, "table", "json")
	return cmd
}
