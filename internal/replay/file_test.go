package replay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hardneg/internal/records"
	"hardneg/internal/triplets"
	"hardneg/internal/window"
	"hardneg/stream"
)

// TestFile goes on with the files of a replay that was killed, at several points. It also checks that files
// from which a replay cannot go on are refused.
func TestFile(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	path := filepath.Join(dir, "out.jsonl")
	plan := Plan{Revision: 7, Window: []window.Span{{Partition: 1, From: 2, To: 3}}}
	slot := func(query, value string) []stream.Output {
		return []stream.Output{
			{Key: records.TripletKey(query, "p", 1), Value: []byte(value)}, {Key: records.TripletKey(query, "p", 2)}, // the second slot is empty
		}
	}
	open := func(arguments string, anew bool) (*File, *Plan, Progress, error) {
		f := NewFile(path, triplets.Formats["hardneg"], arguments)
		t.Cleanup(f.Close)
		resumed, at, err := f.Resume(ctx, anew)
		if err != nil {
			f.Close()
		}
		return f, resumed, at, err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	content := func(want string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%q, want %q: %v", got, want, err)
		}
	}

	// This replay ends before it writes anything.
	f, resumed, _, err := open("a", false)
	if must(err); resumed != nil {
		t.Fatal(resumed)
	}
	if _, _, _, err := open("a", false); err == nil || err.Error() != "another replay into "+path+" is under way" {
		t.Errorf("a second one at the same time: %v", err)
	}
	f.Close()
	if all, _ := os.ReadDir(dir); len(all) > 0 {
		t.Errorf("what never began has left %v", all)
	}

	f, _, _, err = open("a", false)
	must(err)
	must(f.Begin(ctx, plan))
	f.saved = f.saved.Add(-checkpointEvery)
	must(f.Write(ctx, slot("q1", `{"n":1}`), Progress{After: "1"}))
	must(f.Write(ctx, slot("q2", `{"n":2}`), Progress{After: "2"})) // too soon after the last checkpoint for another one
	must(f.data.Close())                                            // as if killed

	if _, _, _, err := open("b", false); err == nil || !strings.Contains(err.Error(), "unfinished that had other arguments (a)") {
		t.Errorf("other arguments: %v", err)
	}
	f, resumed, at, err := open("a", false)
	if must(err); resumed == nil || resumed.Revision != 7 || at.After != "1" {
		t.Fatalf("%+v %+v", resumed, at)
	}
	must(f.Write(ctx, slot("q2", `{"n":2}`), Progress{After: "2"}))
	must(f.Write(ctx, nil, Progress{After: "2", Done: true}))
	must(f.data.Close()) // as if killed after the end
	content("{\"n\":1}\n{\"n\":2}\n")
	f, resumed, at, err = open("a", false)
	if must(err); resumed == nil || !at.Done {
		t.Fatalf("%+v %+v", resumed, at)
	}
	must(f.Forget(ctx))
	f.Close()
	content("{\"n\":1}\n{\"n\":2}\n")
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Errorf("what is finished has left %v", all)
	}

	// As if killed after the last checkpoint, before the data get their final name.
	f, _, _, err = open("a", false)
	must(err)
	must(f.Begin(ctx, plan))
	must(f.Write(ctx, slot("q1", `{"n":3}`), Progress{After: "1"}))
	f.state.Progress.Done = true
	must(f.save())
	must(f.data.Close())
	content("{\"n\":1}\n{\"n\":2}\n")
	f, resumed, at, err = open("a", false)
	if must(err); resumed == nil || !at.Done {
		t.Fatalf("%+v %+v", resumed, at)
	}
	content("{\"n\":3}\n")
	must(f.Forget(ctx))
	f.Close()

	// The data are shorter than the checkpoint says. With --restart the replay begins anew.
	f, _, _, err = open("a", false)
	must(err)
	must(f.Begin(ctx, plan))
	f.state.Size = 100
	must(f.save())
	must(f.data.Close())
	if _, _, _, err := open("a", false); err == nil || !strings.Contains(err.Error(), "--restart begins it anew") {
		t.Errorf("lost data: %v", err)
	}
	for _, c := range []func(){func() {}, func() { must(os.WriteFile(f.notes(), []byte("{"), 0o600)) }} {
		c()
		g, resumed, _, err := open("b", true)
		if must(err); resumed != nil {
			t.Errorf("%+v", resumed)
		}
		must(g.data.Close())
	}
	if _, _, _, err := open("a", false); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("broken notes: %v", err)
	}
}
