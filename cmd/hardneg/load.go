package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/dataset"
	"hardneg/internal/records"
	"hardneg/stream"
)

const (
	batchRecords = 1000
	batchBytes   = 4 << 20
)

func (c *command) loadCommand() *cobra.Command {
	return group("load", "Produce documents and queries", c.loadBEIRCommand(), c.loadJSONLCommand())
}

// skipFlag adds the flag that goes on without what is refused.
func skipFlag(cmd *cobra.Command, skip *bool) {
	cmd.Flags().BoolVar(skip, "skip-refused", false, "produce the rest if lines are refused")
}

func (c *command) loadBEIRCommand() *cobra.Command {
	var t target
	var splits []string
	var skip bool
	cmd := &cobra.Command{
		Use:   "beir DIR",
		Short: "Produce a collection in BEIR layout",
		Long: `Produce the documents of a collection in BEIR layout (corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, plain or .gz),
and then its queries, with the documents that are judged above 0 as their positives. The collection is a folder, or the
zip archive as it is downloaded. The judgements may have the four columns of TREC, and may end in .txt or .qrels too.

Before it produces anything, the command reads all files. It produces nothing if a line is one that hardneg run would
refuse, or if a judgement names a query or a document that is not there. --skip-refused leaves such lines out.

Loading a collection twice leaves its documents as they are, but counts the judgements of its queries twice.`,
		Example: "  hardneg load beir ./scifact --split train --data-dir ./data",
		Args:    arguments("DIR"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		there, err := dataset.Splits(args[0])
		if err != nil {
			return err
		}
		for _, split := range splits {
			if !slices.Contains(there, split) {
				return usage("--split %s: %s has %s", split, args[0], strings.Join(there, ", "))
			}
		}
		collection, err := dataset.OpenBEIR(args[0], splits...)
		if err != nil {
			return err
		}
		defer collection.Close()
		check := func() iter.Seq[error] { return collection.Check() }
		return c.produce(cmd.Context(), t, check, skip, func(cfg *config.Config) []part {
			if skip {
				collection.LeaveOutAbsent()
			}
			return []part{
				{"documents", outputs(cfg.Topics.Documents, collection.Documents(), records.Document.Encode)},
				{"queries", outputs(cfg.Topics.Queries, collection.Queries(), encodeQuery)},
			}
		})
	}
	cmd.Flags().StringSliceVar(&splits, "split", nil, "split to take the judgements from; can be repeated (default: all)")
	skipFlag(cmd, &skip)
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

func (c *command) loadJSONLCommand() *cobra.Command {
	var t target
	var topic string
	var skip bool
	cmd := &cobra.Command{
		Use:   "jsonl FILE...",
		Short: "Produce files with a record a line",
		Long: `Produce files with a record of the documents or of the queries topic in each line, plain or .gz; - is the standard
input. Documents are keyed by their id, queries by their query id.

Before it produces anything, the command reads all files. It produces nothing if a line is one that hardneg run would
refuse. --skip-refused leaves such lines out. The standard input and pipes can be read only once: there, a line that is
refused ends the command, and the lines before it have been produced.`,
		Example: "  hardneg load jsonl corpus.jsonl.gz --topic documents --data-dir ./data",
		Args:    arguments("FILE..."),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if topic != "documents" && topic != "queries" {
			return usage("--topic %q is none of documents, queries", topic)
		}
		check := func() iter.Seq[error] { return checkLines(topic, args) }
		return c.produce(cmd.Context(), t, check, skip, func(cfg *config.Config) []part {
			name := cfg.Topics.Documents
			if topic == "queries" {
				name = cfg.Topics.Queries
			}
			return []part{{topic, lines(name, topic, args)}}
		})
	}
	cmd.Flags().StringVar(&topic, "topic", "documents", "what the lines are: documents, queries")
	skipFlag(cmd, &skip)
	t.flags(cmd)
	c.outputFlag(cmd, "table", "json")
	return cmd
}

// checkLines returns an error for each line of the files that can be read a second time, nil for one that is fine.
func checkLines(kind string, paths []string) iter.Seq[error] {
	return func(yield func(error) bool) {
		for _, path := range paths {
			if readOnce(path) {
				continue
			}
			for _, err := range lines("", kind, []string{path}) {
				if !yield(err) {
					return
				}
			}
		}
	}
}

// readOnce reports whether a file gives its content only once, like a pipe.
func readOnce(path string) bool {
	info, err := os.Stat(path)
	return path == "-" || err == nil && !info.Mode().IsRegular()
}

// part is a sequence of records to produce, with the name that the user sees.
type part struct {
	name    string
	outputs iter.Seq2[stream.Output, error]
}

// outputs makes records of what a collection holds.
func outputs[T any](topic string, list iter.Seq2[T, error], encode func(T) (key, value []byte)) iter.Seq2[stream.Output, error] {
	return func(yield func(stream.Output, error) bool) {
		for x, err := range list {
			out := stream.Output{Topic: topic, Partition: stream.ByKey}
			if err == nil {
				out.Key, out.Value = encode(x)
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

func encodeQuery(q records.Query) (key, value []byte) { return []byte(q.QueryID), q.Encode() }

// lines checks each line, but produces it as it is, so fields that hardneg does not know stay.
func lines(topic, kind string, paths []string) iter.Seq2[stream.Output, error] {
	return func(yield func(stream.Output, error) bool) {
		for _, path := range paths {
			for line, err := range dataset.Lines(path) {
				out := stream.Output{Topic: topic, Partition: stream.ByKey, Value: line.Value}
				if err == nil {
					if out.Key, err = keyOf(kind, line.Value); err != nil {
						err = &dataset.LineError{Path: path, Line: line.Number, Err: err}
					}
				}
				if !yield(out, err) {
					return
				}
			}
		}
	}
}

func keyOf(kind string, value []byte) ([]byte, error) {
	if kind == "documents" {
		d, _, err := records.ParseDocument(nil, value)
		return []byte(d.ID), err
	}
	q, _, err := records.ParseQuery(nil, value)
	return []byte(q.QueryID), err
}

// loaded says how many records of one part were produced, and how fast.
type loaded struct {
	Name    string  `json:"name"`
	Records int     `json:"records"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"records_per_second"`
}

// produce produces the parts one after another, and prints how many records and how fast. Before that it reads the
// errors of check, one for each line: a query that is produced twice counts twice, so a second try must not repeat half of the first one.
func (c *command) produce(ctx context.Context, t target, check func() iter.Seq[error], skip bool, parts func(*config.Config) []part) error {
	return c.onKafka(ctx, t, func(on catalog.Conn) error {
		refused, err := c.check(ctx, check())
		if err != nil {
			return err
		}
		if refused.count > 0 && !skip {
			return fmt.Errorf("nothing was produced, because %s; --skip-refused leaves such lines out", refused.text())
		}
		if err := catalog.EnsureTopics(ctx, on.Kafka, on.Config, ""); err != nil {
			return err
		}
		var results []loaded
		for _, p := range parts(on.Config) {
			start := time.Now()
			if skip {
				p.outputs = refused.without(p.outputs)
			}
			n, err := c.producePart(ctx, on.Kafka, p)
			if err != nil {
				return fmt.Errorf("after %d %s: %w", n, p.name, err)
			}
			seconds := time.Since(start).Seconds()
			results = append(results, loaded{p.name, n, seconds, float64(n) / seconds})
		}
		if refused.count > 0 {
			fmt.Fprintf(c.stderr, "hardneg: left out: %s\n", oneLine(refused.text()))
		}
		return c.printLoaded(results)
	})
}

// check counts the refused lines among the errors of lines.
func (c *command) check(ctx context.Context, lines iter.Seq[error]) (refusals, error) {
	progress := newProgress(c.stderr, "check")
	defer progress.end()
	var refused refusals
	for err := range lines {
		if ctx.Err() != nil {
			return refused, ctx.Err()
		}
		if err != nil {
			if err = refused.add(err); err != nil {
				return refused, err
			}
		}
		progress.add(1)
	}
	return refused, nil
}

// refusals counts refused lines, and keeps the texts of the first few.
type refusals struct {
	count int
	first []string
}

// shownRefusals is how many refused lines a message shows.
const shownRefusals = 5

// add counts a refused line. It returns other errors, such as one of the disk.
func (r *refusals) add(err error) error {
	if _, ok := errors.AsType[*dataset.LineError](err); !ok {
		return err
	}
	if r.count++; len(r.first) < shownRefusals {
		r.first = append(r.first, err.Error())
	}
	return nil
}

func (r *refusals) text() string {
	text := strings.Join(r.first, "; ")
	if more := r.count - len(r.first); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	if r.count == 1 {
		return "1 line is refused: " + text
	}
	return fmt.Sprintf("%d lines are refused: %s", r.count, text)
}

// without leaves out refused lines. If nobody checked the file before, it also counts the lines that it leaves out.
func (r *refusals) without(list iter.Seq2[stream.Output, error]) iter.Seq2[stream.Output, error] {
	return func(yield func(stream.Output, error) bool) {
		for out, err := range list {
			if line, ok := errors.AsType[*dataset.LineError](err); ok {
				if readOnce(line.Path) {
					_ = r.add(err)
				}
				continue
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

// producePart returns how many records it has produced, also with an error.
func (c *command) producePart(ctx context.Context, kafka *stream.Client, p part) (int, error) {
	progress := newProgress(c.stderr, p.name)
	defer progress.end()
	var batch []stream.Output
	done, bytes := 0, 0
	flush := func() error {
		if err := kafka.Produce(ctx, batch); err != nil {
			return err
		}
		done += len(batch)
		progress.add(len(batch))
		batch, bytes = batch[:0], 0
		return nil
	}
	for out, err := range p.outputs {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			if len(batch) > 0 && ctx.Err() == nil { // the lines before the bad one are produced, as the help says
				err = errors.Join(err, flush())
			}
			return done, err
		}
		batch = append(batch, out)
		if bytes += len(out.Key) + len(out.Value); len(batch) >= batchRecords || bytes >= batchBytes {
			if err := flush(); err != nil {
				return done, err
			}
		}
	}
	if len(batch) > 0 {
		if err := flush(); err != nil {
			return done, err
		}
	}
	return done, nil
}

func (c *command) printLoaded(results []loaded) error {
	if c.output == "json" {
		return json.NewEncoder(c.stdout).Encode(results)
	}
	for _, r := range results {
		if _, err := fmt.Fprintf(c.stdout, "%-10s %8d records in %.1f s, %.0f/s\n", r.Name, r.Records, r.Seconds, r.Rate); err != nil {
			return err
		}
	}
	return nil
}
