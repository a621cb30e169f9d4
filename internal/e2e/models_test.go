package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// topical writes a file of documents with the words of one field and with ids that begin with the field's
// name.
func topical(t testing.TB, random *rand.Rand, field string, n int) string {
	t.Helper()
	var lines strings.Builder
	for i := range n {
		var words []string
		for range 12 {
			words = append(words, fmt.Sprintf("%s%c%c", field, 'a'+random.IntN(12), 'a'+random.IntN(12)))
		}
		lines.Write(mustJSON(map[string]any{"id": fmt.Sprintf("%s-%d-%d", field, n, i), "text": strings.Join(words, " ")}))
		lines.WriteByte('\n')
	}
	path := filepath.Join(t.TempDir(), "documents.jsonl")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shownModel is the output of `hardneg models` for a model.
type shownModel struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Manifest struct {
		Dimensions int `json:"dimensions"`
		Samples    int `json:"samples"`
		HeldOut    struct {
			Share float64 `json:"share"`
		} `json:"held_out"`
	} `json:"manifest"`
	Recent struct {
		Documents int     `json:"documents"`
		Share     float64 `json:"captured_share"`
		Drifted   bool    `json:"drifted"`
	} `json:"recent"`
}

// ask runs the program and decodes its output.
func (s *service) ask(into any, args ...string) {
	s.t.Helper()
	out := hardneg(s.t, patience, append(args, "--data-dir", s.dir, "-o", "json")...)
	if out.code != codeOK {
		s.t.Fatalf("hardneg %s: exit code %d\n%s", strings.Join(args, " "), out.code, out.stderr)
	}
	if err := json.Unmarshal([]byte(out.stdout), into); err != nil {
		s.t.Fatalf("hardneg %s: %v\n%s", strings.Join(args, " "), err, out.stdout)
	}
}

// TestModels: a view begins with the model that `hardneg fit` has published, and keeps it. The service's
// vectors and triplets come from this model, and documents of another kind show as drift.
func TestModels(t *testing.T) {
	random := random(t)
	s := newService(t, "--embedded", "--set", "fit.minimum=1000000", "--set", "fit.sample=1000000", "--set", "fit.wait=1h")
	s.spawn() // it waits until there are a million documents
	s.load("jsonl", topical(t, random, "law", 600))
	query := filepath.Join(t.TempDir(), "queries.jsonl")
	if err := os.WriteFile(query, []byte(`{"query_id":"q","query":"lawaa lawbb lawcc","positives":["law-600-1"]}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.load("jsonl", query, "--topic", "queries")
	var fitted struct {
		Manifest  struct{ ID string }
		Published bool
	}
	s.ask(&fitted, "fit", "--sample", "500", "--set", "reduce.max_dimensions=24")
	id := fitted.Manifest.ID
	if !fitted.Published || id == "" {
		t.Fatalf("fitted %+v", fitted)
	}
	live := func() {
		t.Helper()
		s.eventually(patience, "a live model", func() error {
			var models []shownModel
			s.ask(&models, "models", "list")
			if len(models) != 1 || models[0].ID != id || models[0].State != "live" || models[0].Manifest.Dimensions != 24 || models[0].Manifest.Samples != 500 {
				return fmt.Errorf("models %+v, want %s alone, live", models, id)
			}
			return nil
		})
	}
	live()
	s.ready(patience)
	s.eventually(patience, "triplets of the model", func() error {
		out := hardneg(t, patience, "export", "--data-dir", s.dir)
		if out.code != codeOK || !strings.Contains(out.stdout, `"generation":"`+id+`"`) {
			return fmt.Errorf("exit code %d, %s%s", out.code, out.stdout, out.stderr)
		}
		return nil
	})

	// Other settings do not change the live model.
	s.kill()
	s.args = []string{"--embedded", "--set", "reduce.max_dimensions=12"}
	s.spawn()
	s.ready(patience)
	live()

	feed := func(field string, n, total int, drifted bool) {
		t.Helper()
		s.load("jsonl", topical(t, random, field, n))
		s.eventually(patience, fmt.Sprintf("%d documents", total), func() error {
			var shown shownModel
			s.ask(&shown, "models", "show", id[:6])
			// The batch that was in progress at the kill may be embedded once more.
			if shown.Recent.Documents < total || shown.Recent.Drifted != drifted || (shown.Recent.Share < shown.Manifest.HeldOut.Share/2) != drifted {
				return fmt.Errorf("%+v of %+v", shown.Recent, shown.Manifest)
			}
			return nil
		})
	}
	const warning = "loses notably more of recent documents"
	feed("law", 800, 800, false)
	if strings.Contains(s.logTail(1<<20), warning) {
		t.Error("a warning of documents of the same kind")
	}
	feed("zoo", 2500, 3300, true)
	feed("law", 8000, 11_300, false)
	feed("zoo", 2501, 13_801, true)
	if n := strings.Count(s.logTail(1<<20), warning); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}
	s.stop()
}
