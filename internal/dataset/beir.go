package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"hardneg/internal/records"
)

const (
	corpusFile  = "corpus.jsonl"
	queriesFile = "queries.jsonl"
)

// Collection is a collection in the layout of the BEIR benchmark: corpus.jsonl, queries.jsonl and
// qrels/SPLIT.tsv. All of them may be packed by gzip, and the whole by zip.
type Collection struct {
	folder          *folder
	corpus, queries string                 // files of the folder
	positives       map[string][]judgement // by query id, in the order of the judgements
	absent          map[string]bool        // judged documents that Check did not find in the corpus
}

// judgement is a line of qrels with a score above 0.
type judgement struct {
	document string
	file     string
	line     int
}

// OpenBEIR reads the judgements of a collection, from the named splits or, if none is named, from all.
// Documents with a score above 0 are positives. The collection is a folder or a zip archive.
func OpenBEIR(path string, splits ...string) (*Collection, error) {
	f, err := openFolder(path)
	if err != nil {
		return nil, err
	}
	c, err := f.collection(splits)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return c, nil
}

// Close closes the archive of the collection. One in a folder has nothing to close.
func (c *Collection) Close() error { return c.folder.close() }

func (f *folder) collection(splits []string) (*Collection, error) {
	corpus, err := f.plainOrPacked(corpusFile)
	if err != nil {
		return nil, err
	}
	queries, err := f.plainOrPacked(queriesFile)
	if err != nil {
		return nil, err
	}
	files, available, err := f.splits()
	if err != nil {
		return nil, err
	}
	if len(splits) == 0 {
		splits = available
	}
	c := &Collection{folder: f, corpus: corpus, queries: queries, positives: map[string][]judgement{}}
	for _, split := range splits {
		if files[split] == "" {
			return nil, fmt.Errorf("%s has no split %q, there are %s", f.path, split, strings.Join(available, ", "))
		}
		if err := c.readJudgements(files[split]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Splits returns the splits of a collection, sorted.
func Splits(path string) ([]string, error) {
	f, err := openFolder(path)
	if err != nil {
		return nil, err
	}
	_, names, err := f.splits()
	return names, errors.Join(err, f.close())
}

func (c *Collection) readJudgements(name string) error {
	path := c.folder.whole(name)
	first := true
	for line, err := range c.folder.lines(name) {
		if err != nil {
			return err
		}
		query, document, score, err := parseJudgement(line.Value)
		if first && errors.Is(err, errNoScore) {
			err, score = nil, 0 // the header
		}
		first = false
		if err != nil {
			return &LineError{path, line.Number, err}
		}
		if score > 0 && !slices.ContainsFunc(c.positives[query], func(j judgement) bool { return j.document == document }) {
			c.positives[query] = append(c.positives[query], judgement{document, path, line.Number})
		}
	}
	return nil
}

var errNoScore = errors.New("is not a number")

// parseJudgement reads a line of qrels: query, document and score, separated by tabs, or the four columns of TREC,
// which have an iteration behind the query that nobody uses. Columns without a tab are separated by blanks.
func parseJudgement(line []byte) (query, document string, score float64, err error) {
	if at := records.InvalidUTF8(line); at >= 0 {
		return "", "", 0, fmt.Errorf("the line is not valid UTF-8 at byte %d", at)
	}
	columns := strings.Split(string(line), "\t")
	if len(columns) == 1 {
		columns = strings.Fields(columns[0])
	}
	switch len(columns) {
	case 3:
		query, document = columns[0], columns[1]
	case 4:
		query, document = strings.TrimSpace(columns[0]), strings.TrimSpace(columns[2])
	default:
		return "", "", 0, fmt.Errorf("%d columns, want query-id, corpus-id and score, separated by tabs, or the four of TREC", len(columns))
	}
	last := columns[len(columns)-1]
	if score, err = strconv.ParseFloat(strings.TrimSpace(last), 64); err != nil {
		return "", "", 0, fmt.Errorf("the score %q %w", last, errNoScore)
	}
	if err := records.CheckID(query); err != nil {
		return "", "", 0, fmt.Errorf("the id of the query %w", err)
	}
	if err := records.CheckID(document); err != nil {
		return "", "", 0, fmt.Errorf("the id of the document %w", err)
	}
	return query, document, score, nil
}

// Documents returns the corpus in the order of its file. A line that the documents topic would refuse gives a
// LineError. If the caller goes on, the sequence continues with the next line.
func (c *Collection) Documents() iter.Seq2[records.Document, error] {
	return parsed(c.folder.whole(c.corpus), c.folder.lines(c.corpus), func(value []byte) (records.Document, error) {
		e, err := records.ParseEntry(value)
		if err != nil {
			return records.Document{}, err
		}
		return e.Document()
	})
}

// Queries returns the queries that have a positive in the splits, in the order of their file. Each has all
// its positives and the collection's own id. Lines that the queries topic would refuse give errors like Documents.
// So does a second line of a query: its judgements would count twice. At the end, there is an error for each
// judgement of a query that the file lacks.
func (c *Collection) Queries() iter.Seq2[records.Query, error] {
	return func(yield func(records.Query, error) bool) {
		seen := make(map[string]bool, len(c.positives))
		lines := parsed(c.folder.whole(c.queries), c.folder.lines(c.queries), func(value []byte) (records.Query, error) {
			e, err := records.ParseEntry(value)
			if err != nil || len(c.positives[e.ID]) == 0 {
				return records.Query{}, err
			}
			if seen[e.ID] {
				return records.Query{}, fmt.Errorf("the query %q comes twice", e.ID)
			}
			seen[e.ID] = true
			return e.Query(documentsOf(c.positives[e.ID]))
		})
		for q, err := range lines {
			if (q.QueryID != "" || err != nil) && !yield(q, err) {
				return
			}
		}
		var missing []*LineError
		for id, judgements := range c.positives {
			for _, j := range judgements {
				if !seen[id] {
					missing = append(missing, j.refused("the query %q is not in %s", id, c.queries))
				}
			}
		}
		for _, err := range inOrder(missing) {
			if !yield(records.Query{}, err) {
				return
			}
		}
	}
}

func documentsOf(judgements []judgement) []string {
	ids := make([]string, len(judgements))
	for i, j := range judgements {
		ids[i] = j.document
	}
	return ids
}

// Check reads the whole collection. It returns an error for each line that Documents or Queries refuses, nil for each
// other line that they return, and an error for each judgement of a document that the corpus lacks.
func (c *Collection) Check() iter.Seq[error] {
	return func(yield func(error) bool) {
		c.absent = map[string]bool{}
		for _, judgements := range c.positives {
			for _, j := range judgements {
				c.absent[j.document] = true
			}
		}
		for d, err := range c.Documents() {
			delete(c.absent, d.ID) // also the id of a refused document: it has its error already
			if !yield(err) {
				return
			}
		}
		unknown := map[judgement]bool{} // judgements of unknown queries: their error is noted already
		for _, err := range c.Queries() {
			if line, ok := errors.AsType[*LineError](err); ok {
				unknown[judgement{file: line.Path, line: line.Line}] = true
			}
			if !yield(err) {
				return
			}
		}
		var missing []*LineError
		for _, judgements := range c.positives {
			for _, j := range judgements {
				if c.absent[j.document] && !unknown[judgement{file: j.file, line: j.line}] {
					missing = append(missing, j.refused("the document %q is not in %s", j.document, c.corpus))
				}
			}
		}
		for _, err := range inOrder(missing) {
			if !yield(err) {
				return
			}
		}
	}
}

func (j judgement) refused(format string, args ...any) *LineError {
	return &LineError{j.file, j.line, fmt.Errorf(format, args...)}
}

// LeaveOutAbsent removes the judgements of documents that Check did not find in the corpus.
func (c *Collection) LeaveOutAbsent() {
	for id, judgements := range c.positives {
		judgements = slices.DeleteFunc(judgements, func(j judgement) bool { return c.absent[j.document] })
		if c.positives[id] = judgements; len(judgements) == 0 {
			delete(c.positives, id)
		}
	}
}

// inOrder sorts line errors by file and line.
func inOrder(lines []*LineError) []*LineError {
	slices.SortFunc(lines, func(a, b *LineError) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line))
	})
	return lines
}

// Len returns the number of queries with a positive.
func (c *Collection) Len() int { return len(c.positives) }
