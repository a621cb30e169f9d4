package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// joining is a client that sends the requests of a group member by hand.
type joining struct {
	*kgo.Client
	t      *testing.T
	member string
}

func newJoining(t *testing.T, addr string) *joining {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(kversion.V2_0_0())) // older protocol: joins in one step
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &joining{Client: client, t: t}
}

const testGroup, testSession = "g", 6 * time.Second

func (j *joining) join(ctx context.Context) (generation int32, leader bool, err error) {
	request := kmsg.NewPtrJoinGroupRequest()
	request.Group, request.MemberID, request.ProtocolType = testGroup, j.member, "consumer"
	request.SessionTimeoutMillis, request.RebalanceTimeoutMillis = int32(testSession.Milliseconds()), 20_000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name = "range"
	request.Protocols = append(request.Protocols, protocol)
	answer, err := request.RequestWith(ctx, j.Client)
	if err != nil {
		return 0, false, err
	}
	j.member = answer.MemberID
	return answer.Generation, answer.LeaderID == answer.MemberID, nil
}

func (j *joining) sync(generation int32) {
	request := kmsg.NewPtrSyncGroupRequest()
	request.Group, request.Generation, request.MemberID = testGroup, generation, j.member
	if _, err := request.RequestWith(j.t.Context(), j.Client); err != nil {
		j.t.Error(err)
	}
}

func (j *joining) beat(generation int32) {
	request := kmsg.NewPtrHeartbeatRequest()
	request.Group, request.Generation, request.MemberID = testGroup, generation, j.member
	_, _ = request.RequestWith(j.t.Context(), j.Client)
}

func (j *joining) members() (state string, n int) {
	request := kmsg.NewPtrDescribeGroupsRequest()
	request.Groups = []string{testGroup}
	answer, err := request.RequestWith(j.t.Context(), j.Client)
	if err != nil {
		j.t.Fatal(err)
	}
	return answer.Groups[0].State, len(answer.Groups[0].Members)
}

// TestMemberThatDiesWhileItJoins: a member whose process ends while it waits to join is removed. A member
// that sends heartbeats stays.
func TestMemberThatDiesWhileItJoins(t *testing.T) {
	s, err := Start(Config{Address: "127.0.0.1:0", Dir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	alive, dies := newJoining(t, s.Addr()), newJoining(t, s.Addr())
	generation, _, err := alive.join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alive.sync(generation)

	joining, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _, _ = dies.join(joining)
	}()
	await(t, "a rebalance", func() bool {
		alive.beat(generation)
		state, _ := alive.members()
		return state == "PreparingRebalance"
	})
	cancel()
	<-gone
	dies.Client.Close()

	generation, _, err = alive.join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alive.sync(generation)
	if _, n := alive.members(); n != 2 {
		t.Fatalf("%d members after the rebalance, want the one that died among 2: nothing is left to expel", n)
	}
	await(t, "the one that died to be expelled", func() bool {
		alive.beat(generation)
		state, n := alive.members()
		if state == "PreparingRebalance" { // without the dead member
			if generation, _, err = alive.join(t.Context()); err != nil {
				t.Fatal(err)
			}
			alive.sync(generation)
		}
		return n == 1
	})
	for deadline := time.Now().Add(2 * membersEvery); time.Now().Before(deadline); {
		alive.beat(generation)
		if _, n := alive.members(); n != 1 {
			t.Fatalf("%d members, want the one that speaks to stay", n)
		}
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
