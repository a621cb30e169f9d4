package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hardneg/internal/catalog"
	"hardneg/internal/fit"
	"hardneg/stream"
)

// loadDocuments loads n documents with the texts that a function makes.
func loadDocuments(t *testing.T, dir string, n int, text func(i int) string) {
	t.Helper()
	var lines strings.Builder
	for i := range n {
		value, err := json.Marshal(map[string]string{"id": fmt.Sprintf("%.3s%d", text(0), i), "text": text(i)})
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(value, '\n'))
	}
	path := filepath.Join(t.TempDir(), "documents.jsonl")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	succeed(t, "load", "jsonl", path, "--data-dir", dir)
}

func aPart(i int) string {
	return fmt.Sprintf("the %s part of kind %d and of colour %d", word(i), i%4, i%7)
}

func listed(t *testing.T, at []string) []catalog.ListedModel {
	t.Helper()
	var models []catalog.ListedModel
	out := succeed(t, append(at, "models", "list", "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &models); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return models
}

func TestModelCommands(t *testing.T) {
	for args, want := range map[string]string{
		"fit --sample 0":                   "hardneg: --sample must be at least 1, is 0\n",
		"fit -o yaml":                      "hardneg: --output \"yaml\" is none of table, json\n",
		"fit --kafka 127.0.0.1:1 --seed x": "hardneg: invalid argument \"x\" for \"--seed\" flag: strconv.ParseUint: parsing \"x\": invalid syntax (see hardneg fit --help)\n",
		"models":                           "hardneg: models what? One of: list, show, remove\n",
		"models show":                      "hardneg: hardneg models show needs ID (see hardneg models show --help)\n",
		"models list":                      "hardneg: which Kafka? Name the service by --data-dir, --kafka, or kafka.brokers in the configuration\n",
	} {
		code, _, stderr := hardneg(t, strings.Fields(args)...)
		if code != exitUsage || stderr != want {
			t.Errorf("%s: %d %s", args, code, stderr)
		}
	}

	// The service waits until there are a million documents, so it never fits a model itself.
	dir := runService(t, "--set", "fit.minimum=1000000", "--set", "fit.wait=1h", "--set", "fit.sample=1000000", "--set", "sweep.rate=0")
	kafka := client(t, dir)
	at := []string{"--data-dir", dir, "--set", "reduce.max_dimensions=16"}
	if out := succeed(t, append(at, "models", "list")...); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "MODEL ") {
		t.Errorf("no models: %s", out)
	}
	if code, _, stderr := hardneg(t, append(at, "fit")...); code != exitFailure || stderr != "hardneg: topic documents has no documents to fit on: load some first\n" {
		t.Errorf("no documents: %d %s", code, stderr)
	}
	if code, _, stderr := hardneg(t, append(at, "fit", "--from-index")...); code != exitFailure || !strings.Contains(stderr, "there is no live collection yet") {
		t.Errorf("no collection: %d %s", code, stderr)
	}
	loadDocuments(t, dir, 300, aPart)

	var dry, fitted fit.Report
	if err := json.Unmarshal([]byte(succeed(t, append(at, "fit", "--dry-run", "--sample", "250", "-o", "json")...)), &dry); err != nil {
		t.Fatal(err)
	}
	if m := dry.Manifest; dry.Published || dry.First != "" || m.Samples != 250 || m.HeldOut == nil || m.HeldOut.Documents != 12 || m.Dimensions != 16 ||
		len(m.Embedders) != 2 || len(m.Variance) < 5 || dry.Read != 300 {
		t.Errorf("dry run: %+v", dry)
	}
	if models := listed(t, at); len(models) != 0 {
		t.Errorf("a dry run published %+v", models)
	}
	out := succeed(t, append(at, "fit", "--sample", "250")...)
	id := dry.Manifest.ID // the same documents, sample and seed
	for _, line := range []string{"model       " + id + ", published\n", "source      topic documents, 300 read\n", "dimensions  16 of 8192\n", "samples     250\n",
		"of that of 12 documents held out\n", "\nEMBEDDER  TYPE          WEIGHT  DIMENSIONS  FITTED BYTES\n", "words     lexical-word  1       4096        1048596\n", "\nDIMENSIONS  CAPTURED\n         1  0."} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	if out := succeed(t, append(at, "fit", "--sample", "250")...); !strings.HasPrefix(out, "model   "+"    "+id+", was published before\n") {
		t.Errorf("once more:\n%s", out)
	}
	if err := json.Unmarshal([]byte(succeed(t, append(at, "fit", "--seed", "9", "-o", "json")...)), &fitted); err != nil {
		t.Fatal(err)
	}
	if !fitted.Published || fitted.First != id || fitted.Manifest.ID == id || fitted.Manifest.Samples != 300 {
		t.Errorf("another: %+v", fitted)
	}

	// The service takes the first of them.
	for deadline := time.Now().Add(patience); listed(t, at)[0].State != catalog.ModelLive; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the service does not take it: %+v", listed(t, at))
		}
	}
	// A model whose publisher was killed, and one that is damaged.
	err := kafka.Produce(t.Context(), []stream.Output{
		{Topic: "hardneg.models", Key: []byte("00000000000000aa/000000"), Value: []byte("x")},
		{Topic: "hardneg.models", Key: []byte(id[:3] + "0000000000000/manifest"), Value: []byte("{}")},
	})
	if err != nil {
		t.Fatal(err)
	}
	models := listed(t, at)
	if len(models) != 4 || models[0].ID != id || models[0].State != catalog.ModelLive || !models[0].First ||
		models[1].ID != fitted.Manifest.ID || models[1].State != catalog.ModelUnused ||
		models[2].State != catalog.ModelBroken || !strings.Contains(models[2].Problem, "schema 0, want 1") ||
		models[3].ID != "00000000000000aa" || models[3].State != catalog.ModelBroken || !strings.Contains(models[3].Problem, "there is no manifest") {
		t.Errorf("%+v", models)
	}
	table := succeed(t, append(at, "models", "list")...)
	if strings.Count(table, "\n") != 5 || !strings.Contains(table, id+"  live ") || !strings.Contains(table, "words, chars\n") || !strings.Contains(table, " there is no manifest: it is being published") {
		t.Errorf("%s", table)
	}

	// The beginning of an id is enough if only one model's id begins so.
	out = succeed(t, append(at, "models", "show", id[:7])...)
	for _, line := range []string{"model        " + id + "\n", "state        live\n", "generations  " + id + "\n", "captured     "} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	if code, _, stderr := hardneg(t, append(at, "models", "show", id[:3])...); code != exitUsage || !strings.Contains(stderr, `"`+id[:3]+`" is the beginning of `) {
		t.Errorf("two: %d %s", code, stderr)
	}
	if code, _, stderr := hardneg(t, append(at, "models", "show", "xyz")...); code != exitFailure || stderr != "hardneg: no model begins with \"xyz\": hardneg models list shows all\n" {
		t.Errorf("none: %d %s", code, stderr)
	}
	if out := succeed(t, append(at, "models", "show", "00000000000000aa")...); !strings.Contains(out, "problem  there is no manifest") {
		t.Errorf("%s", out)
	}
	// The service indexes the documents, and says what it loses of them.
	var shown shownModel
	for deadline := time.Now().Add(patience); shown.Recent == nil || shown.Recent.Documents < 300; time.Sleep(50 * time.Millisecond) {
		if err := json.Unmarshal([]byte(succeed(t, append(at, "models", "show", id, "-o", "json")...)), &shown); err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", shown, err)
		}
	}
	if r := shown.Recent; r.Documents < 300 || // a batch that is tried again counts twice
		r.Drifted || r.Share < 0.5*shown.Manifest.HeldOut.Share || shown.NotRecent != "" {
		t.Errorf("%+v of %+v", r, shown.Manifest)
	}
	for address, want := range map[string]string{
		"":            fmt.Sprintf("captured of recent documents, %d embedded by the service at 127.0.0.1:", shown.Recent.Documents),
		"127.0.0.1:1": "recent       unknown: no service answers at 127.0.0.1:1\n",
	} {
		args := append(at, "models", "show", id)
		if address != "" {
			args = append(args, "--http", address)
		}
		if out := succeed(t, args...); !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if out := succeed(t, append(at, "models", "show", fitted.Manifest.ID)...); !strings.Contains(out, "does not embed by this model") {
		t.Errorf("%s", out)
	}
	// From the index: the same documents, and so the same model.
	if out := succeed(t, append(at, "fit", "--from-index", "--sample", "250", "--dry-run")...); !strings.Contains(out, id+", not published") || !strings.Contains(out, "generation "+id+", 300 read") {
		t.Errorf("%s", out)
	}
	// A live model stays. An unused one can be removed, and so can a broken one.
	if code, _, stderr := hardneg(t, append(at, "models", "remove", id[:7], "--yes")...); code != exitFailure ||
		stderr != "hardneg: the model is in use: generation "+id+" has it\n" {
		t.Errorf("remove what is live: %d %s", code, stderr)
	}
	if out := succeed(t, append(at, "models", "remove", fitted.Manifest.ID)...); !strings.Contains(out, "is unused; with --yes it would be removed") || len(listed(t, at)) != 4 {
		t.Errorf("a dry run: %s", out)
	}
	for _, gone := range []string{fitted.Manifest.ID, "00000000000000aa", models[2].ID} {
		if out := succeed(t, append(at, "models", "remove", gone, "--yes")...); out != "model "+gone+" is removed\n" {
			t.Errorf("remove: %s", out)
		}
	}
	if left := listed(t, at); len(left) != 1 || left[0].ID != id {
		t.Errorf("left: %+v", left)
	}
}

// TestReadRecent reads answers of other servers, and of services that know nothing of the model.
func TestReadRecent(t *testing.T) {
	const id = "0123456789abcdef"
	for _, test := range []struct {
		status int
		body   string
		want   string
	}{
		{404, "", "answers 404 Not Found"},
		{200, "<html>hello</html>", "answers with no metrics"},
		{200, "up 1\n", "does not embed by this model"},
		{200, `hardneg_model_measured_documents_total{model="other"} 5` + "\n", "does not embed by this model"},
		{200, `hardneg_model_measured_documents_total{model="` + id + `"} 0` + "\n", "has not embedded a document since it started"},
		{200, "# TYPE hardneg_model_measured_documents_total counter\n" + `hardneg_model_measured_documents_total{model="` + id + `"} 7` + "\n" +
			"# TYPE hardneg_model_captured_share gauge\n" + `hardneg_model_captured_share{model="` + id + `",what="sample"} 0.9` + "\n" +
			`hardneg_model_captured_share{model="` + id + `",what="recent"} 0.25` + "\n" +
			"# TYPE hardneg_model_drifted gauge\n" + `hardneg_model_drifted{model="` + id + `"} 1` + "\n", ""},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			fmt.Fprint(w, test.body)
		}))
		got, err := readRecent(t.Context(), server.Listener.Addr().String(), id)
		server.Close()
		if test.want == "" {
			if err != nil || got.Documents != 7 || got.Share != 0.25 || !got.Drifted {
				t.Errorf("%s: %+v, %v", test.body, got, err)
			} else if said := got.String(); !strings.HasSuffix(said, "; too few to say more: it takes 500") {
				t.Errorf("of 7 documents: %s", said)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%d %s: %v, want %q", test.status, test.body, err, test.want)
		}
	}
}
