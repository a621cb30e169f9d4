package index

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"hardneg/mining"

	"github.com/qdrant/go-client/qdrant"
)

// neverReached is the threshold τ of a state that no document can enter: no cosine is above 1.
const neverReached = 2

// WriteStates stores states under the writer's fencing token, which every state must have. A stored state
// with a higher token stays as it is; that is no error, so read the states to find out. When the call
// returns, every later read sees the states.
//
// It writes nothing and returns an error if a query id occurs twice, if a state has another token, or if a
// state cannot be stored: an empty query id, text that is not UTF-8, a vector of the wrong length, a NaN or
// an infinity.
func (x *Index) WriteStates(ctx context.Context, states []State, token int64) error {
	points := make([]*qdrant.PointStruct, len(states))
	seen := make(map[string]bool, len(states))
	for i := range states {
		s := &states[i]
		if seen[s.QueryID] {
			return fmt.Errorf("query %q is twice in one write", s.QueryID)
		}
		seen[s.QueryID] = true
		if s.Token != token {
			return fmt.Errorf("query %q: the state has token %d, its writer %d", s.QueryID, s.Token, token)
		}
		point, err := x.statePoint(s)
		if err != nil {
			return fmt.Errorf("query %q: %w", s.QueryID, err)
		}
		points[i] = point
	}
	// Qdrant compares numbers as float64. That is exact below 2^53, and tokens are Unix milliseconds.
	mine := &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewRange(fieldToken, &qdrant.Range{Lte: qdrant.PtrOf(float64(token))})}}
	return x.upsert(ctx, x.queries, points, mine)
}

// States returns the states of these queries, by query id. States of forgotten queries are included; ids that
// the index does not know are not in the map. Empty slices and maps come back as nil.
func (x *Index) States(ctx context.Context, queryIDs []string) (map[string]State, error) {
	states := make(map[string]State, len(queryIDs))
	err := x.points(ctx, x.queries, pointIDs(queryIDs, QueryPointID), qdrant.NewWithPayload(true), qdrant.NewWithVectors(true), func(p *qdrant.RetrievedPoint) error {
		s, err := stateFrom(p.GetPayload(), p.GetVectors())
		states[s.QueryID] = s
		return err
	})
	return states, err
}

// ScanStates calls f for every state, forgotten queries included, in the order of point ids. An error of f
// ends the scan and is returned. States that are written during the scan may or may not be among them.
func (x *Index) ScanStates(ctx context.Context, f func(State) error) error {
	return x.scroll(ctx, x.queries, nil, maxPoints, qdrant.NewWithPayload(true), qdrant.NewWithVectors(true), func(p *qdrant.RetrievedPoint) error {
		s, err := stateFrom(p.GetPayload(), p.GetVectors())
		if err != nil {
			return x.client.describe("Scroll", x.queries, err)
		}
		return f(s)
	})
}

// Known is a query that has a state and is not forgotten.
type Known struct {
	QueryID string
	Newest  Position // the newest record of the query
}

// Known lists queries that are not forgotten, at most limit of them, in the order of their point ids. Point
// ids are hashes, so the order looks random but does not change. The list begins at the point id from; "" is
// before all point ids. next is the point id at which the following list begins, and "" at the end of the
// collection. If unlike is not empty, only queries are listed whose State.Fingerprint is another one.
func (x *Index) Known(ctx context.Context, from string, limit int, unlike string) (known []Known, next string, err error) {
	filter := notDeleted
	if unlike != "" {
		filter = &qdrant.Filter{Must: notDeleted.GetMust(), MustNot: []*qdrant.Condition{qdrant.NewMatchKeyword(fieldFingerprint, unlike)}}
	}
	request := &qdrant.ScrollPoints{
		CollectionName: x.queries, Filter: filter,
		WithPayload: qdrant.NewWithPayloadInclude(fieldQuery, fieldNewest), WithVectors: qdrant.NewWithVectors(false),
	}
	if from != "" {
		request.Offset = qdrant.NewIDUUID(from)
	}
	for len(known) < limit {
		request.Limit = qdrant.PtrOf(uint32(min(limit-len(known), knownPage)))
		answer, err := call(ctx, x.client, "Scroll", x.queries, func(ctx context.Context) (*qdrant.ScrollResponse, error) {
			return x.client.connection.GetPointsClient().Scroll(ctx, request)
		})
		if err != nil {
			return nil, "", err
		}
		for _, point := range answer.GetResult() {
			fields := point.GetPayload()
			known = append(known, Known{stringOf(fields[fieldQuery]), positionOf(fields[fieldNewest])})
		}
		if request.Offset = answer.GetNextPageOffset(); request.Offset == nil {
			return known, "", nil
		}
	}
	return known, request.GetOffset().GetUuid(), nil
}

// knownPage is how many queries Known reads in one request.
const knownPage = 1000

// statePoint encodes a state. The vector of its point is (q, -τ), where τ is the lowest cosine with which a
// new document could alter the lists. See Entering.
func (x *Index) statePoint(s *State) (*qdrant.PointStruct, error) {
	if err := x.checkState(s); err != nil {
		return nil, err
	}
	tau, last := s.threshold()
	vector := make([]float32, x.dimensions+1)
	copy(vector, s.Vector)
	vector[x.dimensions] = last
	fields := payload{
		fieldQuery: text(s.QueryID), fieldText: text(s.Text), fieldDeleted: boolean(s.Text == ""),
		fieldNewest: positionValue(s.Newest), fieldEmbedded: boolean(s.Vector != nil), fieldTau: number(tau),
		fieldPositives: list(s.Positives, positiveValue), fieldWatch: list(s.Watch, text), fieldEntry: list(s.Entry, intervalValue),
		fieldRevision: integer(s.Revision), fieldToken: integer(s.Token), fieldFingerprint: text(s.Fingerprint), fieldStored: integer(s.StoredAt),
	}
	if s.Forgotten != nil {
		fields[fieldForgotten] = positionValue(*s.Forgotten)
	}
	carried := make(payload, len(s.Carried))
	for name, vector := range s.Carried {
		carried[name] = text(encodeFloats(vector))
	}
	published := make(payload, len(s.Published))
	for id, rank := range s.Published {
		published[id] = integer(int64(rank))
	}
	applied := make(payload, len(s.Applied))
	for partition, offset := range s.Applied {
		applied[strconv.Itoa(int(partition))] = integer(offset)
	}
	fields[fieldCarried], fields[fieldPublished], fields[fieldApplied] = object(carried), object(published), object(applied)
	return &qdrant.PointStruct{Id: qdrant.NewIDUUID(QueryPointID(s.QueryID)), Vectors: qdrant.NewVectorsDense(vector), Payload: fields}, nil
}

// threshold returns τ and the last component of the point's vector. A query without a vector gets
// neverReached, so that no probe finds it.
func (s *State) threshold() (tau, last float32) {
	tau = neverReached
	for _, entry := range s.Entry {
		tau = min(tau, entry.Low)
	}
	tau = max(tau, -neverReached)
	if s.Vector == nil {
		return tau, -neverReached
	}
	return tau, -tau
}

// inconsistency compares the stored τ, vector component and marker with the values that statePoint would
// store for the state. It returns the first difference as a text, or "".
func (s *State) inconsistency(fields payload, vector []float32) string {
	tau, last := s.threshold()
	switch {
	case float32Of(fields[fieldTau]) != tau:
		return fmt.Sprintf("tau %.5f, not %.5f", float32Of(fields[fieldTau]), tau)
	case len(vector) > 0 && vector[len(vector)-1] != last:
		return fmt.Sprintf("threshold %.5f in the vector, not %.5f", vector[len(vector)-1], last)
	case fields[fieldDeleted].GetBoolValue() != (s.Text == ""):
		return fmt.Sprintf("marked as forgotten: %v", s.Text != "")
	}
	return ""
}

// checkState refuses values that Qdrant would not return unchanged.
func (x *Index) checkState(s *State) error {
	if s.QueryID == "" {
		return errors.New("the query id is empty")
	}
	if s.Vector != nil {
		if err := x.checkQuery(s.Vector); err != nil {
			return err
		}
	}
	texts := append([]string{s.QueryID, s.Text, s.Fingerprint}, s.Watch...)
	var numbers []float32
	for _, p := range s.Positives {
		texts, numbers = append(texts, p.Document, p.Hash, string(p.Reason)), append(numbers, p.Similarity)
		for _, slot := range p.Slots {
			texts = append(texts, slot.Document, slot.Hash, slot.Policy)
			numbers = append(numbers, slot.QueryNegative, slot.PositiveNegative)
		}
	}
	for id := range s.Published {
		texts = append(texts, id)
	}
	for name := range s.Carried {
		texts = append(texts, name)
	}
	for _, t := range texts {
		if err := checkText("a string of the state", t); err != nil {
			return err
		}
	}
	for _, entry := range s.Entry {
		if entry.Low != entry.Low || entry.High != entry.High {
			return fmt.Errorf("entry interval [%g, %g] has a NaN", entry.Low, entry.High)
		}
	}
	return checkFinite("similarities", numbers)
}

// stateFrom is the inverse of statePoint.
func stateFrom(fields payload, vectors *qdrant.VectorsOutput) (State, error) {
	s := State{
		QueryID: stringOf(fields[fieldQuery]), Text: stringOf(fields[fieldText]), Newest: positionOf(fields[fieldNewest]),
		Positives: items(fields[fieldPositives], positiveOf), Watch: items(fields[fieldWatch], stringOf), Entry: items(fields[fieldEntry], intervalOf),
		Revision: fields[fieldRevision].GetIntegerValue(), Token: fields[fieldToken].GetIntegerValue(),
		Fingerprint: stringOf(fields[fieldFingerprint]), StoredAt: fields[fieldStored].GetIntegerValue(),
	}
	if s.QueryID == "" {
		return s, errors.New("a point without query_id: the collection was written by something else")
	}
	vector := denseOf(vectors)
	if fields[fieldEmbedded].GetBoolValue() && len(vector) > 0 {
		s.Vector = vector[: len(vector)-1 : len(vector)-1]
	}
	if forgotten, ok := fields[fieldForgotten]; ok {
		place := positionOf(forgotten)
		s.Forgotten = &place
	}
	for name, value := range fields[fieldCarried].GetStructValue().GetFields() {
		vector, err := decodeFloats(stringOf(value))
		if err != nil {
			return s, fmt.Errorf("query %q: carried vector of %q: %w", s.QueryID, name, err)
		}
		put(&s.Carried, name, vector)
	}
	s.Published = publishedOf(fields[fieldPublished])
	for name, offset := range fields[fieldApplied].GetStructValue().GetFields() {
		partition, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			return s, fmt.Errorf("query %q: applied: partition %q: %w", s.QueryID, name, err)
		}
		put(&s.Applied, int32(partition), offset.GetIntegerValue())
	}
	s.Inconsistent = s.inconsistency(fields, vector)
	return s, nil
}

func publishedOf(v *qdrant.Value) (published map[string]int) {
	for id, rank := range v.GetStructValue().GetFields() {
		put(&published, id, int(rank.GetIntegerValue()))
	}
	return published
}

// put sets an entry of a map, and makes the map first if it is nil.
func put[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[key] = value
}

func positionValue(p Position) *qdrant.Value {
	return object(payload{"timestamp": integer(p.Timestamp), "partition": integer(int64(p.Partition)), "offset": integer(p.Offset)})
}

func positionOf(v *qdrant.Value) Position {
	f := v.GetStructValue().GetFields()
	return Position{Timestamp: f["timestamp"].GetIntegerValue(), Partition: int32(f["partition"].GetIntegerValue()), Offset: f["offset"].GetIntegerValue()}
}

func positiveValue(p Positive) *qdrant.Value {
	return object(payload{
		fieldDocument: text(p.Document), "weight": integer(p.Weight), "paired": boolean(p.Paired), fieldHash: text(p.Hash),
		"similarity": number(p.Similarity), "reason": text(string(p.Reason)),
		"slots": list(p.Slots, slotValue), "log": list(p.Log, loggedValue),
	})
}

func positiveOf(v *qdrant.Value) Positive {
	f := v.GetStructValue().GetFields()
	return Positive{
		Document: stringOf(f[fieldDocument]), Weight: f["weight"].GetIntegerValue(), Paired: f["paired"].GetBoolValue(), Hash: stringOf(f[fieldHash]),
		Similarity: float32Of(f["similarity"]), Reason: mining.Reason(stringOf(f["reason"])),
		Slots: items(f["slots"], slotOf), Log: items(f["log"], loggedOf),
	}
}

func slotValue(s mining.Slot) *qdrant.Value {
	return object(payload{
		fieldDocument: text(s.Document), fieldHash: text(s.Hash), "policy": text(s.Policy),
		"similarity": number(s.QueryNegative), "positive_similarity": number(s.PositiveNegative),
	})
}

func slotOf(v *qdrant.Value) mining.Slot {
	f := v.GetStructValue().GetFields()
	return mining.Slot{
		Document: stringOf(f[fieldDocument]), Hash: stringOf(f[fieldHash]), Policy: stringOf(f["policy"]),
		QueryNegative: float32Of(f["similarity"]), PositiveNegative: float32Of(f["positive_similarity"]),
	}
}

func loggedValue(l Logged) *qdrant.Value {
	return object(payload{
		"timestamp": integer(l.Timestamp), "partition": integer(int64(l.Partition)), "offset": integer(l.Offset), "weight": integer(l.Weight),
	})
}

func loggedOf(v *qdrant.Value) Logged {
	return Logged{Position: positionOf(v), Weight: v.GetStructValue().GetFields()["weight"].GetIntegerValue()}
}

func intervalValue(i mining.Interval) *qdrant.Value {
	return list([]float32{i.Low, i.High}, bound)
}

func intervalOf(v *qdrant.Value) mining.Interval {
	ends := v.GetListValue().GetValues()
	if len(ends) != 2 {
		return mining.Interval{Low: float32(math.Inf(-1)), High: float32(math.Inf(1))} // unreadable: every document may enter, which costs a refresh but misses none
	}
	return mining.Interval{Low: boundOf(ends[0], math.Inf(-1)), High: boundOf(ends[1], math.Inf(1))}
}
