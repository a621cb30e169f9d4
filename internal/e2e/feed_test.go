package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// feed is a stream of random changes in the background, with bad records among them.
type feed struct {
	*churn
	k    *kafka
	pace time.Duration   // between two productions
	size int             // changes in each production
	mu   sync.Mutex      // held while records are being produced
	sent []*kgo.Record   // all records that were produced
	bad  map[string]bool // topic, partition and offset of records that must become dead letters
	stop chan struct{}
	done chan struct{}
}

// startFeed produces documents and queries, and then changes until the feed is ended.
func startFeed(t testing.TB, k *kafka, seed uint64, documents int) *feed {
	t.Helper()
	f := newFeed(t, k, seed, documents)
	go f.run()
	return f
}

func newFeed(t testing.TB, k *kafka, seed uint64, documents int) *feed {
	t.Helper()
	w := newWorld(k.topics)
	f := &feed{
		churn: newChurn(w, rand.New(rand.NewPCG(seed, 3))), k: k, pace: 60 * time.Millisecond, size: 5,
		bad: map[string]bool{}, stop: make(chan struct{}), done: make(chan struct{}),
	}
	f.produce(goRecords(t, w, documents), nil)
	return f
}

func (f *feed) run() {
	defer close(f.done)
	for {
		select {
		case <-f.stop:
			return
		case <-time.After(f.pace):
			f.change()
		}
	}
}

func (f *feed) change() {
	f.mu.Lock()
	defer f.mu.Unlock()
	records := f.steps(f.size)
	var refused *kgo.Record
	if f.IntN(6) == 0 {
		refused = f.unusable()
		records = append(records, refused)
	}
	f.produced(records, refused)
}

func (f *feed) produce(records []*kgo.Record, refused *kgo.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.produced(records, refused)
}

func (f *feed) produced(records []*kgo.Record, refused *kgo.Record) {
	f.k.produce(records...)
	f.sent = append(f.sent, records...)
	if refused != nil {
		f.bad[recordPlace(refused.Topic, refused.Partition, refused.Offset)] = true
	}
}

// unusable returns a record that must become a dead letter.
func (f *feed) unusable() *kgo.Record {
	f.next++
	key := fmt.Sprintf("bad-%d", f.next)
	switch f.IntN(3) {
	case 0:
		return &kgo.Record{Topic: f.topics.documents, Key: []byte(key), Value: []byte(`{"id":"` + key + `","text":`)}
	case 1:
		return &kgo.Record{Topic: f.topics.queries, Key: []byte(key), Value: []byte(`{"positives":["` + key + `"]}`), Timestamp: f.tick()}
	default: // it replaces a good document, which then no longer exists
		r := f.drop(pick(f.churn, f.world.documents))
		r.Value = []byte(`{"text":5}`)
		return r
	}
}

// pause returns when no record is being produced. Until resume, none is.
func (f *feed) pause()  { f.mu.Lock() }
func (f *feed) resume() { f.mu.Unlock() }

// end returns when the last record is acknowledged.
func (f *feed) end() {
	close(f.stop)
	<-f.done
}

// checkOutcomes checks that each produced record has exactly one result among the committed records. A record
// of the query log gives evidence or a forget in the refresh topic. A bad record gives one dead letter with
// its bytes. It returns the number of dead letters.
func checkOutcomes(t testing.TB, k *kafka, f *feed) int {
	t.Helper()
	taken := map[string]int{} // by topic, partition and offset in the query log
	for _, r := range k.readCommitted(k.refresh) {
		var x struct {
			Kind   string `json:"kind"`
			Source struct {
				Topic     string `json:"topic"`
				Partition int32  `json:"partition"`
				Offset    int64  `json:"offset"`
			} `json:"source"`
		}
		if err := json.Unmarshal(r.Value, &x); err != nil {
			t.Fatalf("refresh record at %d/%d: %v", r.Partition, r.Offset, err)
		}
		if x.Kind != "refresh" {
			taken[recordPlace(x.Source.Topic, x.Source.Partition, x.Source.Offset)]++
		}
	}
	errs := few{t: t}
	for _, r := range f.sent {
		at := recordPlace(r.Topic, r.Partition, r.Offset)
		want := 0
		if r.Topic == k.queries && !f.bad[at] {
			want = 1
		}
		if taken[at] != want {
			errs.errorf("%s: %d records of it in %s, want %d: %.200q", at, taken[at], k.refresh, want, r.Value)
		}
		delete(taken, at)
	}
	for at := range taken {
		errs.errorf("%s holds evidence of %s, which was not produced", k.refresh, at)
	}
	return checkLetters(t, k, f)
}

// checkLetters checks the committed dead letters: each bad record has one, with its bytes, and no other
// record has any. It returns their number.
func checkLetters(t testing.TB, k *kafka, f *feed) int {
	t.Helper()
	letters := map[string][]*kgo.Record{}
	read := k.readCommitted(k.deadLetters)
	for _, r := range read {
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		at := headers["hardneg-topic"] + "/" + headers["hardneg-partition"] + "/" + headers["hardneg-offset"]
		letters[at] = append(letters[at], r)
	}
	errs := few{t: t}
	for _, r := range f.sent {
		at := recordPlace(r.Topic, r.Partition, r.Offset)
		want := 0
		if f.bad[at] {
			want = 1
		}
		if len(letters[at]) != want {
			errs.errorf("%s: %d dead letters, want %d: %.200q", at, len(letters[at]), want, r.Value)
		}
		for _, letter := range letters[at] {
			if !bytes.Equal(letter.Key, r.Key) || !bytes.Equal(letter.Value, r.Value) {
				errs.errorf("%s: its dead letter is %q %q, want %q %q", at, letter.Key, letter.Value, r.Key, r.Value)
			}
		}
		delete(letters, at)
	}
	for at := range letters {
		errs.errorf("a dead letter of %s, which was not produced", at)
	}
	return len(read)
}
