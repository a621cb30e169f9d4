package stream

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kfake"
)

func fakeCluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

func valuesOf(records []Record) []string {
	var vs []string
	for _, r := range records {
		vs = append(vs, string(r.Value))
	}
	return vs
}

// Several brokers share leaders and coordinators, which move between them while a stage runs.
func TestSeveralBrokers(t *testing.T) {
	cluster := fakeCluster(t, kfake.NumBrokers(3))
	c := clientOf(t, cluster.ListenAddrs()...)
	in, a, b := testTopic(t, c, "in", 3), testTopic(t, c, "a", 5), testTopic(t, c, "b", 4)
	const n = 3000
	if err := c.Produce(testContext(t), numbered(in, 0, n)); err != nil {
		t.Fatal(err)
	}
	w := &recorder{t: t}
	s := stageOf(in, w, func(Assignment) Processor {
		return processFunc(func(_ context.Context, batch []Record) ([]Output, error) {
			var out []Output
			for _, r := range batch {
				out = append(out, Output{Topic: a, Partition: ByKey, Key: r.Key, Value: r.Value}, Output{Topic: b, Partition: ByKey, Key: r.Key, Value: r.Value})
			}
			return out, nil
		})
	})
	s.MaxRecords = 20
	runStage(t, c, s)
	for range 3 {
		time.Sleep(100 * time.Millisecond)
		cluster.ShufflePartitionLeaders()
		cluster.RehashCoordinators()
	}
	for deadline := time.Now().Add(2 * time.Minute); !noLag(t, c, s.Group, in); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not done; failures %+v", w.all(Failed))
		}
	}
	t.Logf("%d failures, %d fenced", len(w.all(Failed)), len(w.all(Fenced)))
	for _, e := range append(w.all(Failed), w.all(Fenced)...) {
		t.Log(e.Kind, e.Partition, e.Err)
	}
	for _, topic := range []string{a, b} {
		if d := diff(numbers(n), valuesOf(fetchAll(t, c, topic))); d != "" {
			t.Errorf("%s: %s", topic, d)
		}
	}
	tokensGrow(t, w)
}

func TestTLSAndSASL(t *testing.T) {
	https := httptest.NewTLSServer(nil) // for its certificate
	defer https.Close()
	cluster := fakeCluster(t, kfake.NumBrokers(1), kfake.TLS(https.TLS), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "carol", "plain"), kfake.Superuser("SCRAM-SHA-256", "alice", "256"), kfake.Superuser("SCRAM-SHA-512", "bob", "512"))
	roots := https.Client().Transport.(*http.Transport).TLSClientConfig
	for _, auth := range []SASL{{"plain", "carol", "plain"}, {"scram-sha-256", "alice", "256"}, {"SCRAM-SHA-512", "bob", "512"}} {
		t.Run(auth.Mechanism, func(t *testing.T) {
			c, err := New(Config{Brokers: cluster.ListenAddrs(), TLS: roots, SASL: auth, ClientID: "test", Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Ping(testContext(t)); err != nil {
				t.Fatal(err)
			}
			in, out := testTopic(t, c, "in", 1), testTopic(t, c, "out", 1)
			if err := c.Produce(testContext(t), numbered(in, 0, 100)); err != nil {
				t.Fatal(err)
			}
			s := stageOf(in, &recorder{t: t}, passOn(out))
			stop := runStage(t, c, s)
			eventually(t, "no lag", func() bool { return noLag(t, c, s.Group, in) })
			if err := stop(); err != nil {
				t.Error(err)
			}
			if d := diff(numbers(100), valuesOf(fetchAll(t, c, out))); d != "" {
				t.Error(d)
			}
			wrong, err := New(Config{Brokers: cluster.ListenAddrs(), TLS: roots, SASL: SASL{auth.Mechanism, auth.Username, "wrong"}, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			defer wrong.Close()
			if err := wrong.Ping(testContext(t)); err == nil || errors.Is(err, ErrUnreachable) && auth.Mechanism == "plain" {
				t.Errorf("wrong password: %v", err)
			}
		})
	}
	if _, err := New(Config{Brokers: cluster.ListenAddrs(), SASL: SASL{Mechanism: "kerberos"}}); !contains(err, `"kerberos"`) {
		t.Errorf("unknown mechanism: %v", err)
	}
	plain := clientOf(t, cluster.ListenAddrs()...)
	ctx, cancel := context.WithTimeout(testContext(t), 3*time.Second)
	defer cancel()
	if err := plain.Ping(ctx); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without TLS: %v", err)
	}
}
