package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"hardneg/internal/config"
	"hardneg/internal/service"
	"hardneg/internal/telemetry"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2 // usage or configuration
	exitUnreachable = 3 // a dependency cannot be reached
)

// usageError marks an error as a mistake in the command line.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// command holds what all commands share. The fields below stderr are set while a command line is read.
type command struct {
	environ        []string
	stdout, stderr io.Writer
	file           string   // --config
	set            []string // --set
	output         string   // -o
	started        bool     // cobra accepted the command line
}

// execute runs a command line and returns its exit code. Results go to stdout, everything else to stderr.
func execute(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	c := &command{environ: environ, stdout: stdout, stderr: stderr}
	root := c.root()
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	code := c.exitCode(err)
	if code == exitOK {
		return code
	}
	// A configuration can have several problems, and each has a line of its own. All other errors get one
	// line, because programs read standard error line by line.
	var wrong *config.Error
	if errors.As(err, &wrong) {
		fmt.Fprintln(stderr, wrong)
		return code
	}
	message := oneLine(err.Error())
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		message = strings.Replace(message, context.Canceled.Error(), "interrupted", 1)
	}
	if code == exitUsage && !c.started {
		message += " (see " + ran.CommandPath() + " --help)"
	}
	fmt.Fprintln(stderr, "hardneg:", message)
	return code
}

func (c *command) exitCode(err error) int {
	var wrong *config.Error
	var misuse usageError
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE): // the reader of the output, such as head, has seen enough
		return exitOK
	case errors.As(err, &wrong), errors.As(err, &misuse), !c.started:
		return exitUsage
	case service.Unreachable(err), errors.Is(err, service.ErrNotRunning):
		return exitUnreachable
	}
	return exitFailure
}

func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hardneg",
		Short: "Keep hard-negative triplets current",
		Long: `hardneg mines hard negatives for training re-rankers and keeps them current: documents and query logs come in
on Kafka, embeddings live in Qdrant, and the triplets topic is a maintained view of both.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 a dependency is unreachable.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,

		SuggestionsMinimumDistance: 2,
	}
	root.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return root.Help()
		}
		if guesses := root.SuggestionsFor(args[0]); len(guesses) > 0 {
			return usage("unknown command %s; did you mean %s?", args[0], strings.Join(guesses, " or "))
		}
		return usage("unknown command %s (see hardneg --help)", args[0])
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.file, "config", "", "configuration file (YAML)")
	flags.StringArrayVar(&c.set, "set", nil, "set a configuration key, such as kafka.max_batch=200; can be repeated")
	root.AddCommand(
		c.demoCommand(),
		c.runCommand(),
		c.loadCommand(),
		c.tailCommand(),
		c.exportCommand(),
		c.auditCommand(),
		c.checkCommand(),
		c.dlqCommand(),
		c.evalCommand(),
		c.explainCommand(),
		c.fitCommand(),
		c.modelsCommand(),
		c.rebuildCommand(),
		c.replayCommand(),
		c.resetCommand(),
		c.statusCommand(),
		c.configCommand(),
		c.schemaCommand(),
		c.versionCommand(),
	)
	root.SetOut(c.stdout) // before the next call: the completion commands take the output when they are made
	root.SetErr(c.stderr)
	root.InitDefaultCompletionCmd()
	c.noteStart(root)
	return root
}

// noteStart makes every command note that it began to run. An error before that is a mistake in the command
// line.
func (c *command) noteStart(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			c.started = true
			return run(cmd, args)
		}
	}
	for _, child := range cmd.Commands() {
		c.noteStart(child)
	}
}

// arguments checks that a command gets one argument for each name. If the last name ends in "...", it
// stands for one or more.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		more := len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...")
		if len(args) < len(names) {
			return fmt.Errorf("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " "))
		}
		if len(args) > len(names) && !more {
			return fmt.Errorf("%s does not take %q", cmd.CommandPath(), args[len(names)])
		}
		return nil
	}
}

// group makes a command that only holds other commands, and does nothing by itself.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	parent := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	names := make([]string, len(children))
	for i, child := range children {
		names[i] = child.Name()
	}
	parent.RunE = func(_ *cobra.Command, args []string) error {
		choices := strings.Join(names, ", ")
		if len(args) == 0 {
			return usage("%s what? One of: %s", use, choices)
		}
		return usage("there is no %s %s; one of: %s", use, args[0], choices)
	}
	parent.AddCommand(children...)
	return parent
}

// outputFlag adds -o with the forms that a result can have. The first form is the default.
func (c *command) outputFlag(cmd *cobra.Command, forms ...string) {
	c.formFlag(cmd, "output", forms...)
}

// formFlag is outputFlag with another long name, for commands whose --output names a file or topic.
func (c *command) formFlag(cmd *cobra.Command, name string, forms ...string) {
	form := cmd.Flags().StringP(name, "o", forms[0], "form of the result: "+strings.Join(forms, ", "))
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(forms, *form) {
			return usage("--%s %q is none of %s", name, *form, strings.Join(forms, ", "))
		}
		c.output = *form
		return run(cmd, args)
	}
}

// load reads the configuration. The settings that come from the flags of a command win over --set.
func (c *command) load(flags ...string) (*config.Config, zerolog.Logger, error) {
	loaded, err := config.Load(config.Options{File: c.file, Env: c.environ, Set: append(c.set[:len(c.set):len(c.set)], flags...)})
	if err != nil {
		var wrong *config.Error
		if !errors.As(err, &wrong) { // the file cannot be read
			err = usageError{err}
		}
		return nil, zerolog.Nop(), err
	}
	log, err := telemetry.NewLog(c.stderr, loaded.Log.Level, loaded.Log.Format)
	if err != nil {
		return nil, zerolog.Nop(), usageError{err}
	}
	for name, meant := range config.Misspelt(c.environ) {
		log.Warn().Str("variable", name).Str("meant", meant).Msg("an environment variable sets nothing; is it misspelt?")
	}
	return loaded, log, nil
}
