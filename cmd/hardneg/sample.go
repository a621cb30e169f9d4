package main

import (
	"time"

	"github.com/spf13/cobra"
)

// sample says how many queries a command takes, and which.
type sample struct {
	size int // 0: all
	all  bool
	seed uint64
}

// flags adds the flags of a sample. verb says what the command does with the queries.
func (s *sample) flags(cmd *cobra.Command, size int, verb string) {
	cmd.Flags().IntVar(&s.size, "sample", size, "queries to "+verb)
	cmd.Flags().BoolVar(&s.all, "all", false, verb+" all queries")
	cmd.Flags().Uint64Var(&s.seed, "seed", 0, "seed of the sample (default: by the clock)")
}

// read checks the flags, and takes a seed from the clock if the user gives none.
func (s *sample) read(cmd *cobra.Command) error {
	switch {
	case s.all && cmd.Flags().Changed("sample"):
		return usage("--all and --sample exclude each other")
	case s.all:
		s.size = 0
	case s.size < 1:
		return usage("--sample must be at least 1, is %d", s.size)
	}
	if !cmd.Flags().Changed("seed") {
		s.seed = uint64(time.Now().UnixMilli())
	}
	return nil
}
