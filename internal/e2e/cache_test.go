package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// closedCache matches the line in which a process logs the cache's hits and misses.
var closedCache = regexp.MustCompile(`cache of vectors closed.* found=(\d+) not_found=(\d+)`)

// TestCache: a text that was embedded once is not embedded again: not by the indexer after the fit, not by a
// rebuild during service, and not by a second view on the same topics, after a kill and damage to the files.
// The second view has the same vectors as the first. The lexical embedders stand for paid ones; a setting
// puts them behind the cache.
func TestCache(t *testing.T) {
	dir := subset(t, collection(t), 400, 120)
	names := namedTopics("hardneg", "")
	w := newWorld(names)
	w.loaded(t, dir, "train")
	all := strconv.Itoa(len(w.documents)) // each fit uses all documents, and so learns the same
	settings := append(slices.Clone(small), "--set", "fit.minimum="+all, "--set", "fit.sample="+all, "--set", "cache.embedders=all")
	s := newService(t, append(slices.Clone(settings), "--embedded")...)
	s.spawn()
	k := newKafka(t, s.Kafka, names)
	s.load("beir", dir, "--split", "train")
	s.ready(patience)
	k.quiet(patience)
	lookups := func() (hits, misses float64) {
		return s.metric(`hardneg_cache_lookups_total{result="hit"}`), s.metric(`hardneg_cache_lookups_total{result="miss"}`)
	}
	const embedders = 2
	once := float64(embedders * len(w.documents)) // a little less, because copies count once
	hits, misses := lookups()
	t.Logf("first load of %v: %v found, %v not", w, hits, misses)
	if most := once + float64(embedders*len(w.queries)); hits < 0.9*once || misses > most || misses < 0.9*most {
		t.Errorf("%v found and %v not, want the documents %v times of each, and the queries of the latter", hits, misses, embedders)
	}
	if bytes := s.metric("hardneg_cache_bytes"); bytes < misses*4*512 {
		t.Errorf("%v bytes for %v vectors of 512 dimensions", bytes, misses)
	}
	t.Log(compare(t, s, k, w, ""))

	weights := "embedders=[{name: words, type: lexical-word, dimensions: 512, weight: 2}, {name: chars, type: lexical-char, dimensions: 512}]"
	out := hardneg(t, patience, slices.Concat([]string{"rebuild", "--data-dir", s.dir}, settings, []string{"--set", weights})...)
	said := closedCache.FindStringSubmatch(out.stderr)
	if out.code != 0 || said == nil || said[2] != "0" {
		t.Fatalf("the rebuild ended with %d and embedded anew, or says nothing of it: %q\n%s", out.code, said, out.stderr)
	}
	if found, _ := strconv.ParseFloat(said[1], 64); found < 2*0.9*once {
		t.Errorf("the rebuild found %v vectors, want those of all documents twice, for the fit and the index", found)
	}
	t.Logf("rebuild: %s", said[0])
	s.kill()
	harmed := harm(t, random(t), filepath.Join(s.dir, "cache"))

	second := topics{names.documents, names.queries, "second.triplets", "second.refresh", names.deadLetters, nil}
	second.groups = map[string]string{"second-indexer": second.documents, "second-intake": second.queries, "second-miner": second.refresh}
	s.args = append(s.args, "--set", "name=second", "--set", "qdrant.prefix=second-", "--set", "topics.triplets=second.triplets",
		"--set", "topics.refresh=second.refresh", "--set", "topics.models=second.models")
	s.spawn()
	k = newKafka(t, s.Kafka, second)
	s.ready(patience)
	k.quiet(patience)
	hits, misses = lookups()
	t.Logf("second view, with %d bytes changed: %v found, %v not", harmed, hits, misses)
	if misses > 0.1*hits || hits < 1.5*once {
		t.Errorf("%v found, %v not: the second view embeds anew", hits, misses)
	}
	w.topics = second
	t.Log(compare(t, s, k, w, "second-"))
	client := qdrantClient(t, s.Qdrant)
	model := "" // both views have the same model, and their first generations have its id
	for _, h := range readView(t, k).records[0].Headers {
		if h.Key == "hardneg-generation" {
			model = string(h.Value)
		}
	}
	first, again := readCorpusOf(t, client, "documents-"+model), readCorpus(t, client, "second-")
	for id, d := range again {
		if first[id] == nil || !reflect.DeepEqual(d.vector, first[id].vector) {
			t.Errorf("document %q has another vector than at first", id)
		}
	}
	if len(first) != len(again) || len(again) < len(w.documents) {
		t.Errorf("%d documents in the second view, %d in the first", len(again), len(first))
	}
	s.stop()
}

// harm changes a few bytes in a few places of the cache, and returns how many.
func harm(t *testing.T, r *rand.Rand, dir string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.vectors"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files in %s (%v)", dir, err)
	}
	const places = 5
	for range places {
		name := names[r.IntN(len(names))]
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		one, at := []byte{0}, r.Int64N(info.Size())
		if _, err := file.ReadAt(one, at); err != nil {
			t.Fatal(err)
		}
		one[0] ^= 0x40
		if _, err := file.WriteAt(one, at); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	return places
}
