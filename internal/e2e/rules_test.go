package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// metric returns the value of a metric of the service, by its name with all labels.
func (s *service) metric(name string) float64 {
	s.t.Helper()
	response, err := http.Get(s.url("/metrics"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				s.t.Fatalf("%s: %v", lines.Text(), err)
			}
			return value
		}
	}
	s.t.Fatalf("no metric %s (%v)", name, lines.Err())
	return 0
}

// embedded returns the number of texts that the process has embedded.
func (s *service) embedded() float64 {
	s.t.Helper()
	return s.metric(`hardneg_embedded_texts_total{kind="passage"}`) + s.metric(`hardneg_embedded_texts_total{kind="query"}`)
}

// TestChangedRules restarts the service with another margin, another policy, or other numbers of negatives.
// Each time the sweep mines every query again, the view becomes what the oracle computes with the new rules,
// and no text is embedded.
func TestChangedRules(t *testing.T) {
	dir := subset(t, collection(t), 600, 250)
	s := newService(t, append(slices.Clone(small), "--embedded")...)
	s.spawn()
	names := namedTopics("hardneg", "")
	k, w := newKafka(t, s.Kafka, names), newWorld(names)
	s.load("beir", dir, "--split", "train")
	w.loaded(t, dir, "train")
	s.ready(patience)
	k.quiet(patience)
	t.Logf("default rules: %v", compare(t, s, k, w, ""))
	before := readView(t, k).lists(t)
	if n := s.embedded(); n < float64(len(w.documents)+len(w.queries)) {
		t.Errorf("%v texts embedded, but there are %v", n, w)
	}
	s.stop()

	base := slices.Clone(s.args)
	const semantic, aware = "{policy: semantic, upto: 1}", "{policy: positive-aware, relative_margin: 0.05}"
	for _, change := range []struct {
		what     string
		settings []string
		rules    rules
	}{
		{"margin", []string{"mining.tiers=[" + semantic + ", {policy: positive-aware, relative_margin: 0.3}]"}, rules{4, 1, 0.3}},
		{"margin and its policy alone", []string{"mining.tiers=[" + aware + "]"}, rules{4, 0, 0.05}},
		{"fewer negatives", []string{"mining.negatives=2"}, rules{2, 1, 0.05}},
		{"the strict policy alone", []string{"mining.negatives=3", "mining.tiers=[{policy: semantic}]"}, rules{3, 3, -1}},
		{"more negatives", []string{"mining.negatives=6", "mining.tiers=[" + semantic + ", " + aware + "]"}, rules{6, 1, 0.05}},
	} {
		s.args, w.rules = slices.Clone(base), change.rules
		for _, setting := range change.settings {
			s.args = append(s.args, "--set", setting)
		}
		sweep := s.args
		s.args = append(slices.Clone(sweep), "--set", "sweep.rate=1000")
		s.spawn()
		s.eventually(patience, "sweep of all queries", func() error {
			if swept := s.metric(`hardneg_swept_queries_total{why="fingerprint"}`); swept < float64(len(w.queries)) {
				return fmt.Errorf("%v of %d queries", swept, len(w.queries))
			}
			return nil
		})
		embedded := s.embedded()
		s.stop()

		s.args = sweep // without a sweep it becomes quiet
		s.spawn()
		k = newKafka(t, s.Kafka, names)
		s.ready(patience)
		k.quiet(patience)
		after, changed := compare(t, s, k, w, ""), 0
		lists := readView(t, k).lists(t)
		for at, list := range before {
			if !slices.Equal(list, lists[at]) {
				changed++
			}
		}
		t.Logf("%s: %v; %d of the lists before are other ones now", change.what, after, changed)
		if embedded += s.embedded(); embedded > 0 {
			t.Errorf("%s: %v texts were embedded, want none", change.what, embedded)
		}
		if changed < len(before)/2 {
			t.Errorf("%s: %d of %d lists are other ones, too few to prove anything", change.what, changed, len(before))
		}
		before = lists
		s.stop()
		if t.Failed() {
			return
		}
	}
}
