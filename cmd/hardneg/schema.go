package main

import (
	"strings"

	"github.com/spf13/cobra"

	"hardneg/internal/records"
)

func (c *command) schemaCommand() *cobra.Command {
	names := records.Schemas()
	return &cobra.Command{
		Use:       "schema NAME",
		Short:     "Print the JSON Schema of a kind of record",
		Long:      "Print the JSON Schema (2020-12) of a kind of record: " + strings.Join(names, ", ") + ".",
		Example:   "  hardneg schema triplet",
		ValidArgs: names,
		Args:      arguments("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := records.Schema(args[0])
			if err != nil {
				return usageError{err}
			}
			_, err = c.stdout.Write(text)
			return err
		},
	}
}
