package qdrant

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "github.com/qdrant/go-client/qdrant"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"
)

const childFolder = "HARDNEG_TEST_INDEX_CHILD" // if set, serve this folder until killed

func TestMain(m *testing.M) {
	dir := os.Getenv(childFolder)
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: dir, Log: zerolog.Nop()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	time.Sleep(10 * time.Minute) // the parent kills this process long before
	os.Exit(1)
}

// TestKill kills the server's process during writes, several times on one folder. Each acknowledged point is
// there, with vector, payload and index. Each other point is complete or absent.
func TestKill(t *testing.T) {
	dir, r := t.TempDir(), random(t)
	acknowledged := make(map[uint64]int64) // highest acknowledged value by point
	sent := make(map[uint64]int64)
	for round := range 5 {
		child, client := startChild(t, dir)
		if round == 0 {
			create(t, client, "c", 3)
			kind := pb.FieldType_FieldTypeInteger
			if _, err := client.CreateFieldIndex(t.Context(), &pb.CreateFieldIndexCollection{CollectionName: "c", FieldName: "n", FieldType: &kind, Wait: proto.Bool(true)}); err != nil {
				t.Fatal(err)
			}
		} else {
			checkSurvivors(t, client, acknowledged, sent)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var group sync.WaitGroup
		var once sync.Once
		first := make(chan struct{}) // closed when something has been acknowledged
		for writer := range uint64(3) {
			group.Go(func() {
				for n := int64(round) * 1_000_000; ctx.Err() == nil; n++ {
					id := writer*100 + uint64(n%50)
					mu.Lock()
					sent[id] = n
					mu.Unlock()
					result, err := client.Upsert(ctx, &pb.UpsertPoints{CollectionName: "c", Wait: proto.Bool(true),
						Points: []*pb.PointStruct{point(pb.NewIDNum(id), map[string]any{"n": n}, float32(n%1000), 1, 2)}})
					if err != nil {
						return
					}
					if result.GetStatus() == pb.UpdateStatus_Completed {
						mu.Lock()
						acknowledged[id] = n
						mu.Unlock()
						once.Do(func() { close(first) })
					}
				}
			})
		}
		select {
		case <-first:
		case <-time.After(time.Minute):
			t.Fatal("nothing was acknowledged within a minute")
		}
		time.Sleep(time.Duration(200+r.IntN(300)) * time.Millisecond)
		if err := child.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		cancel()
		group.Wait()
	}
	_, client := start(t, dir)
	checkSurvivors(t, client, acknowledged, sent)
	t.Logf("%d points after 5 kills", len(acknowledged))
}

func startChild(t *testing.T, dir string) (*exec.Cmd, *pb.Client) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childFolder+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the child said no address")
	}
	return child, connect(t, lines.Text())
}

func checkSurvivors(t *testing.T, client *pb.Client, acknowledged, sent map[uint64]int64) {
	t.Helper()
	if len(acknowledged) == 0 {
		t.Fatal("nothing was acknowledged: the test says nothing")
	}
	page, err := client.Scroll(t.Context(), &pb.ScrollPoints{CollectionName: "c", Limit: proto.Uint32(1000), WithPayload: pb.NewWithPayload(true), WithVectors: pb.NewWithVectors(true)})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[uint64]int64)
	for _, p := range page {
		n := p.GetPayload()["n"].GetIntegerValue()
		found[p.GetId().GetNum()] = n
		if v := p.GetVectors().GetVector().GetDense().GetData(); len(v) != 3 || v[0] != float32(n%1000) || v[2] != 2 {
			t.Errorf("point %v: vector %v does not belong to payload %d", p.GetId(), v, n)
		}
		indexed, err := client.Count(t.Context(), &pb.CountPoints{CollectionName: "c", Filter: &pb.Filter{Must: []*pb.Condition{pb.NewMatchInt("n", n), pb.NewHasID(p.GetId())}}})
		if err != nil || indexed != 1 {
			t.Errorf("point %v is not indexed under %d: %d, %v", p.GetId(), n, indexed, err)
		}
	}
	for id, n := range acknowledged {
		if got, ok := found[id]; !ok || got < n || got > sent[id] {
			t.Errorf("point %d: found %d (%v), acknowledged %d, sent %d", id, got, ok, n, sent[id])
		}
		if got := found[id]; got > n {
			acknowledged[id] = got // a reader has seen it, so it must stay
		}
	}
}
