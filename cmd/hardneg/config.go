package main

import (
	"github.com/spf13/cobra"

	"hardneg/internal/config"
)

func (c *command) configCommand() *cobra.Command {
	print := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration that is in force, without its secrets",
		Args:  arguments(),
	}
	print.RunE = func(*cobra.Command, []string) error {
		cfg, _, err := c.load()
		if err != nil {
			return err
		}
		form := cfg.YAML
		if c.output == "json" {
			form = cfg.JSON
		}
		text, err := form()
		if err != nil {
			return err
		}
		_, err = c.stdout.Write(text)
		return err
	}
	c.outputFlag(print, "yaml", "json")
	schema := &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of the configuration file",
		Args:  arguments(),
		RunE: func(*cobra.Command, []string) error {
			text, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = c.stdout.Write(append(text, '\n'))
			return err
		},
	}
	return group("config", "Look at the configuration", print, schema)
}
