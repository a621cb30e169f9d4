package main

import (
	"time"

	"github.com/spf13/cobra"
)

// sample is which queries a command takes.
type sample struct {
	size int // 0: all
	all  bool
	seed uint64
}

// flags adds the flags that say it; what says what is done with the queries.
func (s *sample) flags(cmd *cobra.Command, size int, what string) {
	cmd.Flags().IntVar(&s.size, "sample", size, "queries to "+what)
	cmd.Flags().BoolVar(&s.all, "all", false, what+" all queries")
	cmd.Flags().Uint64Var(&s.seed, "seed", 0, "seed of the sample (default: by the clock)")
}

// read checks the flags, and draws the seed where none is given.
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
