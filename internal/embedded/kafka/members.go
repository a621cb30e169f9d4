package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// members removes group members that kfake forgets. If a member's connection ends while it waits to join,
// kfake starts no session timer for it and assigns partitions to it, which nobody then reads until the next
// rebalance. A real broker removes such a member.
type members struct {
	client *kgo.Client
	log    zerolog.Logger

	mu     sync.Mutex
	groups map[string]*groupMembers
}

// groupMembers are the members of one group.
type groupMembers struct {
	session time.Duration        // the longest session timeout that any member joined with
	seen    map[string]time.Time // by member: when it last sent a request, or was first seen in the group
}

const membersEvery = 500 * time.Millisecond

// onRequest records which members send requests. The broker calls it with each request.
func (m *members) onRequest(request kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r := request.(type) {
	case *kmsg.JoinGroupRequest:
		g := m.groups[r.Group]
		if g == nil {
			g = &groupMembers{seen: map[string]time.Time{}}
			m.groups[r.Group] = g
		}
		g.session = max(g.session, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
	case *kmsg.SyncGroupRequest:
		m.markSeen(r.Group, r.MemberID)
	case *kmsg.HeartbeatRequest:
		m.markSeen(r.Group, r.MemberID)
	}
	return nil, nil, false
}

func (m *members) markSeen(group, member string) {
	if g := m.groups[group]; g != nil {
		g.seen[member] = time.Now()
	}
}

// watch removes silent members until the context ends.
func (m *members) watch(ctx context.Context) {
	tick := time.NewTicker(membersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		request := kmsg.NewPtrDescribeGroupsRequest()
		m.mu.Lock()
		for group := range m.groups {
			request.Groups = append(request.Groups, group)
		}
		m.mu.Unlock()
		if len(request.Groups) == 0 {
			continue
		}
		answer, err := request.RequestWith(ctx, m.client)
		if err != nil {
			continue // the next turn asks again
		}
		for _, group := range answer.Groups {
			for _, member := range m.silentMembers(group) {
				m.log.Info().Str("group", group.Group).Str("member", member).Msg("a member never spoke since it joined: expelled")
				leave := kmsg.NewPtrLeaveGroupRequest()
				leave.Group, leave.MemberID = group.Group, member
				leaving := kmsg.NewLeaveGroupRequestMember()
				leaving.MemberID = member
				leave.Members = append(leave.Members, leaving)
				_, _ = leave.RequestWith(ctx, m.client) // a member that is still there is found again next turn
			}
		}
	}
}

// silentMembers returns the members of a group that have sent nothing for longer than a session.
func (m *members) silentMembers(group kmsg.DescribeGroupsResponseGroup) (silent []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.groups[group.Group]
	if g == nil {
		return nil
	}
	present := make(map[string]time.Time, len(group.Members))
	now := time.Now()
	for _, member := range group.Members {
		last, known := g.seen[member.MemberID]
		if !known || group.State != "Stable" && group.State != "CompletingRebalance" { // members that wait to join need not send anything
			last = now
		}
		if now.Sub(last) > g.session {
			silent = append(silent, member.MemberID)
			continue
		}
		present[member.MemberID] = last
	}
	if g.seen = present; len(present) == 0 && group.State == "Dead" {
		delete(m.groups, group.Group)
	}
	return silent
}
