package dataset

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hardneg/internal/records"
)

// Collection is a collection in the layout of the BEIR benchmark: corpus.jsonl, queries.jsonl and
// qrels/SPLIT.tsv. The first two may be packed by gzip.
type Collection struct {
	corpus, queries string
	positives       map[string][]string // by query id, in the order of the judgements
}

// OpenBEIR reads the judgements of a collection, from the named splits or, if none is named, from all.
// Documents with a score above 0 are positives.
func OpenBEIR(dir string, splits ...string) (*Collection, error) {
	corpus, err := plainOrPacked(filepath.Join(dir, "corpus.jsonl"))
	if err != nil {
		return nil, err
	}
	queries, err := plainOrPacked(filepath.Join(dir, "queries.jsonl"))
	if err != nil {
		return nil, err
	}
	available, err := Splits(dir)
	if err != nil {
		return nil, err
	}
	if len(splits) == 0 {
		splits = available
	}
	c := &Collection{corpus: corpus, queries: queries, positives: map[string][]string{}}
	for _, split := range splits {
		if !slices.Contains(available, split) {
			return nil, fmt.Errorf("%s has no split %q, there are %s", dir, split, strings.Join(available, ", "))
		}
		if err := c.readJudgements(filepath.Join(dir, "qrels", split+".tsv")); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Splits returns the splits of a collection, sorted.
func Splits(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "qrels"))
	if err != nil {
		return nil, err
	}
	var splits []string
	for _, entry := range entries {
		if split, ok := strings.CutSuffix(entry.Name(), ".tsv"); ok {
			splits = append(splits, split)
		}
	}
	if len(splits) == 0 {
		return nil, fmt.Errorf("%s has no judgements: no file qrels/SPLIT.tsv", dir)
	}
	return splits, nil
}

func (c *Collection) readJudgements(path string) error {
	for line, err := range Lines(path) {
		if err != nil {
			return err
		}
		columns := strings.Split(string(line.Value), "\t")
		if len(columns) != 3 {
			return fmt.Errorf("%s:%d: %d columns, want query-id, corpus-id and score, separated by tabs", path, line.Number, len(columns))
		}
		score, err := strconv.ParseFloat(strings.TrimSpace(columns[2]), 64)
		if err != nil {
			if line.Number == 1 {
				continue // the header
			}
			return fmt.Errorf("%s:%d: the score %q is not a number", path, line.Number, columns[2])
		}
		query, document := columns[0], columns[1]
		if score > 0 && !slices.Contains(c.positives[query], document) {
			c.positives[query] = append(c.positives[query], document)
		}
	}
	return nil
}

// entry is a line of corpus.jsonl or queries.jsonl.
type entry struct {
	ID    string `json:"_id"`
	Title string `json:"title"`
	Text  string `json:"text"`
}

func parseEntry(value []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return e, err
	}
	if e.ID == "" {
		return e, errors.New(`field "_id" is missing or empty`)
	}
	return e, nil
}

// Documents returns the corpus in the order of its file. Errors name file and line.
func (c *Collection) Documents() iter.Seq2[records.Document, error] {
	return parsed(c.corpus, func(value []byte) (records.Document, error) {
		e, err := parseEntry(value)
		return records.Document{ID: e.ID, Title: e.Title, Text: e.Text}, err
	})
}

// Queries returns the queries that have a positive in the splits, in the order of their file. Each has all
// its positives and the collection's own id. For each judged query that the file lacks, there is an error at
// the end.
func (c *Collection) Queries() iter.Seq2[records.Query, error] {
	return func(yield func(records.Query, error) bool) {
		missing := make(map[string]bool, len(c.positives))
		for id := range c.positives {
			missing[id] = true
		}
		for e, err := range parsed(c.queries, parseEntry) {
			positives := c.positives[e.ID]
			if err == nil && len(positives) == 0 {
				continue
			}
			delete(missing, e.ID)
			if !yield(records.Query{Query: strings.TrimSpace(e.Text), QueryID: e.ID, Positives: positives}, err) {
				return
			}
		}
		for _, id := range slices.Sorted(maps.Keys(missing)) {
			if !yield(records.Query{}, fmt.Errorf("%s lacks the query %q that the judgements name", c.queries, id)) {
				return
			}
		}
	}
}

// Len returns the number of queries with a positive.
func (c *Collection) Len() int { return len(c.positives) }
