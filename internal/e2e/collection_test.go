package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"hardneg/internal/dataset"
	"hardneg/internal/records"
)

// data returns the folder of the benchmark collections.
func data() string {
	if dir := os.Getenv("HARDNEG_TEST_DATA"); dir != "" {
		return dir
	}
	return "../../../shared/data"
}

// collection returns the folder of the collection that most tests use: aws-docs, or, if it is missing, Go's
// documentation in the same layout. Both have a split train.
func collection(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(data(), "aws-docs")
	_, err := os.Stat(dir)
	if err == nil {
		return dir
	}
	t.Log("on Go's documentation, since the benchmark collections are not there:", err)
	root, err := dataset.FindGOROOT(t.Context())
	if err != nil {
		t.Skip(err)
	}
	var documents []records.Document
	positives := map[string]records.Query{} // by id, because symbols may share a first sentence
	for e, err := range dataset.GoDoc(root) {
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, e.Document)
		q := e.Query
		q.Positives = append(slices.Clone(positives[q.QueryID].Positives), q.Positives...)
		positives[q.QueryID] = q
	}
	var queries []records.Query
	for _, d := range documents {
		for _, q := range positives {
			if q.Positives[0] == d.ID && len(queries) < 1000 {
				queries = append(queries, q)
			}
		}
	}
	return writeCollection(t, documents, queries)
}

// subset makes a smaller collection: the first documents, and those queries of the split train whose
// positives are all among them.
func subset(t testing.TB, dir string, documents, queries int) string {
	t.Helper()
	set, err := dataset.OpenBEIR(dir, "train")
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	var some []records.Document
	for d, err := range set.Documents() {
		if err != nil {
			t.Fatal(err)
		}
		if len(some) == documents {
			break
		}
		kept[d.ID] = true
		some = append(some, d)
	}
	var asked []records.Query
	for q, err := range set.Queries() {
		if err != nil {
			t.Fatal(err)
		}
		if len(asked) < queries && !slices.ContainsFunc(q.Positives, func(id string) bool { return !kept[id] }) {
			asked = append(asked, q)
		}
	}
	return writeCollection(t, some, asked)
}

// writeCollection writes a folder in BEIR layout with the split train.
func writeCollection(t testing.TB, documents []records.Document, queries []records.Query) string {
	t.Helper()
	var corpus, log, judgements bytes.Buffer
	line := func(to *bytes.Buffer, value map[string]string) {
		if err := json.NewEncoder(to).Encode(value); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range documents {
		line(&corpus, map[string]string{"_id": d.ID, "title": d.Title, "text": d.Text})
	}
	for _, q := range queries {
		line(&log, map[string]string{"_id": q.QueryID, "text": q.Query})
		for _, p := range q.Positives {
			judgements.WriteString(q.QueryID + "\t" + p + "\t1\n")
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "qrels"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"corpus.jsonl": corpus.Bytes(), "queries.jsonl": log.Bytes(), "qrels/train.tsv": judgements.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
